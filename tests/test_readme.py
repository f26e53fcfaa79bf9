"""Every code block of the documents runs, and every table is the one its results give."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxbert
from benchmarks.tables import documents
from jaxbert.cli import make_parser
from jaxbert.optim.strategies import strategy_from_table

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in documents()}
README = PAGES["README.md"]
LINKED = PAGES | {"CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}


def blocks(language):
    """(page, block) of every fenced block of that language."""
    return [
        (name, block)
        for name, text in PAGES.items()
        for found, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
        if found == language
    ]


def without_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


# --- what runs


@pytest.fixture
def few_examples(monkeypatch):
    """The documents' files, cut to what a test has time for."""
    load = jaxbert.load_examples

    def load_few(*args, **kwargs):
        examples = load(*args, **kwargs)
        # Every 700th, so that both labels are among them.
        return dataclasses.replace(
            examples, texts=examples.texts[::700], labels=examples.labels[::700]
        )

    monkeypatch.setattr(jaxbert, "load_examples", load_few)


@pytest.mark.parametrize(
    ("page", "block"), blocks("python"), ids=lambda text: text.strip().split("\n")[-1][:30]
)
def test_python_blocks_run(page, block, few_examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})


def test_the_ten_lines_are_ten():
    block = blocks("python")[0][1]
    assert len([line for line in block.splitlines() if line]) == 10


def shell_commands():
    text = "".join(block for _, block in blocks("sh")).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [command for command in commands if command]


def make_target(words):
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.M)


def jaxbert_command(words):
    for sign in "<>":
        words = words[: words.index(sign)] if sign in words else words
    make_parser().parse_args(words)


def python_module(words):
    assert words[0] == "-m"
    if words[1:3] != ["pip", "install"]:
        assert (ROOT / f"{words[1].replace('.', '/')}.py").is_file()


def submitted(words):
    while words[0].startswith("--"):
        words = words[1:]
    assert words[0].startswith("scripts/")
    recipe(words[0], words[1:])


def recipe(script, words):
    """The first argument is the run's directory, the rest goes to `finetune`."""
    assert (ROOT / script).is_file()
    if script == "scripts/gpu_check.sh":  # which takes a directory and no more
        assert len(words) <= 1
        return
    needed = [] if words[1:] else ["--resume"]
    make_parser().parse_args(["finetune", "--output", words[0], *needed, *words[1:]])


PROGRAMS = {"make": make_target, "jaxbert": jaxbert_command, "sbatch": submitted}


@pytest.mark.parametrize("command", shell_commands(), ids=" ".join)
def test_shell_commands_are_understood(command):
    while re.match(r"[A-Z_]+=", command[0]):
        command = command[1:]
    program, *words = command
    if program.startswith("scripts/"):
        recipe(program, words)
    elif Path(program).name.startswith("python"):
        python_module(words)
    else:
        PROGRAMS[program](words)


@pytest.mark.parametrize(("page", "block"), blocks("sh"))
def test_shell_blocks_are_shell(page, block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {done.stderr}"


def test_toml_blocks_are_strategies():
    found = blocks("toml")
    assert found
    for _, block in found:
        for name, table in tomllib.loads(block).items():
            strategy_from_table(name, table)


# --- what is said


def test_modules_that_the_text_calls_exist():
    called = set(re.findall(r"python -m (benchmarks[\w.]*)", "".join(PAGES.values())))
    assert "benchmarks.tables" in called
    for module in called:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_tables_are_up_to_date():
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def anchors(text):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", without_blocks(LINKED[page])):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", without_blocks(PAGES[page])):
            path = os.path.normpath(Path(page).parent / link)
            waiting += [path] if path in PAGES else []
    assert seen == set(PAGES)


# --- what the README is


def test_the_readme_is_short():
    assert len(README.splitlines()) < 250
    tables = re.findall(r"(?:^\|.*\n)+", without_blocks(README), flags=re.M)
    assert tables
    for table in tables:
        header, _, *rows = table.splitlines()
        assert len(rows) <= 10, header


def test_the_picture_shows_the_whole_package():
    (picture,) = [block for _, block in blocks("") if block.startswith("jaxbert/")]
    names = set(re.findall(r"[\w.]+/|\w+\.py", picture))
    hidden = {"__init__.py", "__main__.py"}
    found = {p.name for p in (ROOT / "jaxbert").glob("*.py")} - hidden
    found |= {f"{p.parent.name}/" for p in (ROOT / "jaxbert").glob("*/__init__.py")}
    assert found <= names
