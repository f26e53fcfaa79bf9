"""The package as strangers get it: built, installed elsewhere, and used far from its sources.

The environment is empty but for the wheel. What that depends on is not installed once more, which
takes minutes: a .pth file lends the packages of the environment that runs the tests. So it is left
out whether pyproject names all of them, and whether its bounds are true; what was done for that by
hand stands beside them.
"""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import tiny

import jaxbert

ROOT = Path(__file__).parent.parent
# What a build takes; more is not there, so that more is not needed.
SOURCES = ("jaxbert", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command, at):
    """What a command prints; nothing of this environment or these sources is in its way."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    kept["JAXBERT_CACHE"] = str(at / "cache")
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=at, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """(source archive, wheel made of nothing else)."""
    root = tmp_path_factory.mktemp("build")
    (root / "tree" / "tests").mkdir(parents=True)
    (root / "tree" / "tests" / "test_nothing.py").touch()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / "tree" / name)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(root)!r})"
    run(sys.executable, "-c", code, at=root / "tree")
    (source,) = root.glob("*.tar.gz")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", source, at=root)
    (wheel,) = root.glob("*.whl")
    return source, wheel


def test_what_the_archives_hold(archives):
    source, wheel = archives
    with tarfile.open(source) as file:
        in_source = {name.partition("/")[2] for name in file.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxbert").rglob("*.py")}
    needed = modules | {"jaxbert/py.typed"}
    assert {"LICENSE", "README.md", "pyproject.toml", *needed} <= in_source
    assert not {name for name in in_source if name.startswith("tests")}
    information = f"jaxbert-{jaxbert.__version__}.dist-info"
    assert {name for name in in_wheel if not name.startswith(information)} == needed
    assert f"{information}/licenses/LICENSE" in in_wheel


@pytest.fixture(scope="module")
def python(archives, tmp_path_factory):
    """The interpreter of an environment that has the wheel."""
    root = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", root, at=root)
    (packages,) = root.glob("lib/python*/site-packages")
    # A line of a .pth file is a path, and what .pth files there say is not heeded: an editable
    # install of these very sources stays out.
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(
        *pip,
        "--python",
        root / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        archives[1],
        at=root,
    )
    return root / "bin" / "python"


def test_every_public_name_is_in_the_wheel(python, tmp_path):
    code = "import jaxbert; print(jaxbert.__file__, *(type(getattr(jaxbert, n)).__name__ for n in "
    where, *kinds = run(python, "-c", f"{code}jaxbert.__all__))", at=tmp_path).split()
    assert Path(where).is_relative_to(python.parent.parent)
    assert len(kinds) == len(jaxbert.__all__)


def test_the_command_says_its_version(python, tmp_path):
    said = run(python.with_name("jaxbert"), "--version", at=tmp_path)
    assert said == f"jaxbert {jaxbert.__version__}\n"


def test_the_command_trains(python, tmp_path):
    tiny.model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(tiny.WORDS))
    rows = [f"{text},{label}" for text, label in zip(tiny.TEXTS, tiny.LABELS, strict=True)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *rows]))
    flags = "finetune --model model --train films.csv --output out --epochs 1 --max-length 16"
    run(python.with_name("jaxbert"), *flags.split(), at=tmp_path)
    assert tiny.run_json(tmp_path / "out")["versions"]["jaxbert"] == jaxbert.__version__
    assert (tmp_path / "out" / "model.safetensors").is_file()
