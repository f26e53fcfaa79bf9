"""Changes one small thing in a module at a time, and sees whether its tests notice.

python -m tests.mutate jaxbert/optim/schedules.py                    # every mutant of a file
python -m tests.mutate jaxbert/optim/*.py --sample 40 --seed 0       # some of each
python -m tests.mutate jaxbert/weights/rename.py --line 62 --show    # those of a line, with a diff

python -m tests.mutate jaxbert/tasks/answers.py --keyword "not command"    # by some of its tests
python -m tests.mutate jaxbert/optim/*.py --again --save             # what survived the last time

One process imports what all tests need, but nothing of ours, and forks for each mutant: the child
imports the package with the mutant in the module's place and runs the module's tests, TESTS, until
one fails, those first that have noticed a change nearby. A test that takes far longer than without
a change has noticed too. Survivors are printed; tests/mutants.toml says why some of them change
nothing that could matter. Status 1 if others survive; --save adds a line for each file to
benchmarks/results/mutants.jsonl. JAX_COMPILATION_CACHE_DIR keeps programs between two calls.
"""

import argparse
import contextlib
import difflib
import importlib
import importlib.machinery
import json
import os
import random
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from pathlib import Path

from tests.mutants import Mutant, mutants

ROOT = Path(__file__).parent.parent
REASONS = ROOT / "tests" / "mutants.toml"
# The tests of a file, the fast ones first; the doctests of a module are always among them.
TESTS = {
    "optim/averages.py": ("optim/test_methods.py",),
    "optim/config.py": ("optim/test_optimizer_config.py",),
    "optim/directions.py": ("optim/test_methods.py", "optim/test_optimizer.py"),
    "optim/exploratory.py": ("optim/test_strategies.py",),
    "optim/groups.py": ("optim/test_groups.py", "optim/test_rate_plan.py"),
    "optim/layers.py": ("optim/test_layers.py", "optim/test_groups.py", "optim/test_table.py"),
    "optim/low_rank.py": ("optim/test_methods.py",),
    "optim/optimizer.py": (
        "optim/test_optimizer.py", "optim/test_rate_plan.py", "optim/test_methods.py"
    ),
    "optim/rate_plan.py": ("optim/test_rate_plan.py", "optim/test_groups.py"),
    "optim/schedules.py": ("optim/test_schedules.py",),
    "optim/start.py": ("optim/test_methods.py",),
    "optim/strategies.py": ("optim/test_strategies.py", "optim/test_rate_plan.py"),
    "optim/table.py": ("optim/test_table.py",),
    "tasks/answer_scores.py": ("tasks/test_answer_scores.py",),
    "tasks/answers.py": ("tasks/test_answers.py", "tasks/test_question_answering.py"),
    "tasks/entities.py": ("tasks/test_entities.py",),
    "tasks/label_sets.py": ("tasks/test_multi_label.py", "tasks/test_text_options.py"),
    "tasks/labels.py": ("data/test_sources.py", "tasks/test_text_options.py"),
    "tasks/losses.py": ("training/test_losses.py",),
    "tasks/masked_lm.py": ("tasks/test_masked_lm.py",),
    "tasks/metrics.py": ("training/test_metrics.py", "tasks/test_multi_label.py"),
    "tasks/multi_label.py": ("tasks/test_multi_label.py",),
    "tasks/multiple_choice.py": ("tasks/test_multiple_choice.py",),
    "tasks/question_answering.py": (
        "tasks/test_answers.py", "tasks/test_question_answering.py"
    ),
    "tasks/questions.py": ("tasks/test_questions.py", "data/test_squad.py"),
    "tasks/sentences.py": ("data/test_conll.py", "tasks/test_token_classification.py"),
    "tasks/token_classification.py": ("tasks/test_token_classification.py",),
    "tasks/text_classification.py": (
        "tasks/test_text_options.py", "data/test_sources.py", "tasks/test_multi_label.py"
    ),
    "training/step.py": ("training/test_train_step.py", "training/test_inference.py"),
    "models/attention.py": (
        "models/test_self_attention.py", "models/test_attention.py", "models/test_fused.py"
    ),
    "models/dropout.py": ("models/test_dropout.py",),
    "weights/rename.py": ("weights/test_rename.py", "weights/test_families.py"),
}  # fmt: skip
# What takes seconds to import, and has nothing of ours in it.
COMMON = (
    "pytest", "chex", "hypothesis", "jax", "jax.numpy", "flax.nnx", "optax", "orbax.checkpoint",
    "transformers", "tokenizers", "datasets", "sklearn.metrics", "scipy.stats", "seqeval.metrics",
    "safetensors.numpy", "beartype", "jaxtyping",
)  # fmt: skip
FACTOR, PATIENCE = 5, 30  # a test has FACTOR times what it takes, and so many seconds
NEAR = 20  # lines: what noticed a change there is tried first


class Order:
    """For pytest: which tests go first, how long each may take; writes what became of each.

    Args:
      seconds: {test: what it takes}. first: tests. path: of the lines that are written.
    """

    def __init__(self, seconds, first, path):
        self._seconds, self._first, self._path = seconds, first, path

    def pytest_collection_modifyitems(self, items):
        """Tests of one file stay together: they share fixtures."""
        files = {}
        for item in items:
            files[item.path] = files.get(item.path, 0.0) + self._seconds.get(item.nodeid, 0.0)
        items.sort(key=lambda item: (item.nodeid not in self._first, files[item.path]))

    def pytest_runtest_logstart(self, nodeid):
        """Ends the process if the test has not ended by then."""
        signal.alarm(int(FACTOR * self._seconds.get(nodeid, 60) + PATIENCE))

    def pytest_runtest_logfinish(self, nodeid):
        signal.alarm(0)

    def pytest_runtest_logreport(self, report):
        with open(self._path, "a", encoding="utf-8") as file:
            line = {"test": report.nodeid, "seconds": report.duration, "failed": report.failed}
            file.write(json.dumps(line) + "\n")


class Subject:
    """A file of the package, its mutants, and whatever runs its tests on them."""

    def __init__(self, path, folder, keyword=""):
        self.path, self.source = path, path.read_text(encoding="utf-8")
        self.name = str(path.relative_to(ROOT / "jaxbert"))
        module = f"jaxbert.{self.name.removesuffix('.py').replace('/', '.')}"
        tests = [f"tests/{test}" for test in TESTS[self.name]]
        doctests = f"tests/test_examples.py::test_examples_run[{module}]"
        self._words = ["-k", keyword, doctests, *tests]
        self._folder, self._seconds, self._noticed = folder, {}, []
        self.mutants = list(mutants(self.source))

    def measure(self):
        """How long the tests take; RuntimeError where they fail without any change."""
        began = time.monotonic()  # and it compiles what the others then find
        status = self.run([Mutant(0, "", self.source)], 1)[0][0]
        if status != "survived":
            said = Path(self._folder, "said.txt").read_text(encoding="utf-8")
            raise RuntimeError(f"{self.name}: its tests fail as it is, {status}:\n{said}")
        self.seconds = time.monotonic() - began

    def run(self, chosen, jobs, seconds=float("inf")):
        """{number: (what became of it, seconds)}, of as many as there is time for."""
        waiting, running, found = list(enumerate(chosen)), {}, {}
        end = time.monotonic() + seconds
        while running or (waiting and time.monotonic() < end):
            while waiting and len(running) < jobs and time.monotonic() < end:
                number, mutant = waiting.pop(0)
                running[self._start(number, mutant)] = number, time.monotonic()
            for child, (number, began) in list(running.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    del running[child]
                    found[number] = (_fate(status), time.monotonic() - began)
                    self._learn(number, chosen[number])
            time.sleep(0.02)
        return found

    def _learn(self, number, mutant):
        """Of what a child has written: how long tests take, and which noticed the change."""
        with contextlib.suppress(FileNotFoundError):  # the module could not be imported
            path = self._tests_of(number)
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            path.unlink()
            if not self._seconds:
                for line in lines:
                    test = line["test"]
                    self._seconds[test] = self._seconds.get(test, 0.0) + line["seconds"]
            self._noticed += [(mutant.line, line["test"]) for line in lines if line["failed"]]

    def _tests_of(self, number):
        return Path(self._folder, f"{number}.jsonl")

    def _start(self, number, mutant):
        child = os.fork()
        if child:
            return child
        status = 3
        try:
            with open(f"{self._folder}/said.txt", "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            self._replace(mutant.source)
            near = {test for line, test in self._noticed if abs(line - mutant.line) <= NEAR}
            status = self._test(Order(self._seconds, near, self._tests_of(number)))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _replace(self, source):
        """Whoever imports the module gets this source, and no bytecode of another."""
        loader, path = importlib.machinery.SourceFileLoader, str(self.path)
        read, stem = loader.get_data, f"{self.path.stem}."
        compiled = str(self.path.parent / "__pycache__")

        def get_data(itself, asked):
            folder, name = os.path.split(asked)
            if folder == compiled and name.startswith(stem):
                raise OSError("not of this source")
            return source.encode() if asked == path else read(itself, asked)

        loader.get_data, sys.dont_write_bytecode = get_data, True

    def _test(self, order):
        import jax
        import pytest

        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", self._folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        # Plugins that are imported already are not rewritten, and pytest would say so.
        words = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main(["-x", "-q", *words, *self._words], plugins=[order]))


def _fate(status):
    """Of a child, by its status as the system tells it."""
    if status == signal.SIGALRM:
        return "killed: takes too long"
    code = os.waitstatus_to_exitcode(status)
    # 1: a test has failed; 2 and 4: the module could not be imported.
    return {0: "survived", 1: "killed"}.get(code, f"killed: status {code}")


def reasons():
    """{(file, the line's text, change): why a mutant that survives is none}."""
    if not REASONS.is_file():
        return {}
    found = tomllib.loads(REASONS.read_text(encoding="utf-8"))
    return {
        (file, row["line"], change): row["why"]
        for file, rows in found.items() for row in rows for change in row["changes"]
    }  # fmt: skip


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.mutate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help=f"of {', '.join(TESTS)}")
    parser.add_argument("--sample", type=int, help="so many mutants of each (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--keyword", default="", help="those of its tests alone, as pytest's -k")
    parser.add_argument("--minutes", type=float, help="after which no other mutant is tried")
    parser.add_argument("--line", type=int, help="the mutants of this line alone")
    parser.add_argument("--again", action="store_true", help="those that survived the last time")
    parser.add_argument("--show", action="store_true", help="the change of a survivor, as a diff")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--save", action="store_true", help="append the totals to the results")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in COMMON:
        importlib.import_module(name)
    known, unexplained = reasons(), 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{folder}/hypothesis"
        for path in args.files:
            row = _try(Subject(path.resolve(), folder, args.keyword), args, known)
            unexplained += sum(not one["why"] for one in row["survivors"])
            if args.save:
                from benchmarks.results import append_result, environment

                append_result("mutants", {**row, **environment()})
    return int(unexplained > 0)


def _try(subject, args, known):
    """Mutants of a file, of which those that survive are printed; a row of them."""
    last = _last_row(subject.name) if args.again else None
    chosen = _chosen(subject, args, last)
    subject.measure()
    began, lines, survivors = time.monotonic(), subject.source.splitlines(), []
    seconds = 60 * args.minutes if args.minutes else float("inf")
    found = subject.run(chosen, args.jobs, seconds)
    tried = sorted(((chosen[number], fate) for number, (fate, _) in found.items()),
                   key=lambda pair: pair[0][:2])  # fmt: skip
    for mutant, fate in tried:
        if fate != "survived":
            continue
        text = lines[mutant.line - 1].strip()
        why = known.get((subject.name, text, mutant.change), "")
        survivors.append({"line": mutant.line, "text": text, "change": mutant.change, "why": why})
        print(f"  {subject.name}:{mutant.line}: {mutant.change:30} {text}  {why and f'({why})'}")
        if args.show:
            old, new = ast_lines(subject.source), mutant.source.splitlines()
            print(*difflib.unified_diff(old, new, n=1, lineterm=""), sep="\n")
    late = sum(fate == "killed: takes too long" for _, fate in tried)
    before = last or {"seed": args.seed, "tried": len(tried), "killed_by_time": 0}
    row = {
        "file": subject.name, "seed": before["seed"], "mutants": len(subject.mutants),
        "tried": before["tried"], "killed": before["tried"] - len(survivors),
        "killed_by_time": before["killed_by_time"] + late,
        "explained": sum(bool(one["why"]) for one in survivors), "survivors": survivors,
        "tests_seconds": round(subject.seconds, 1), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(f"{subject.name:32}{row['killed']:5} of {row['tried']} killed ({late} by their time), of "
          f"{row['mutants']} mutants; tests {subject.seconds:.1f} s", flush=True)  # fmt: skip
    return row


def _last_row(name):
    """Of the file in the results."""
    from benchmarks.results import read_results

    rows = [row for row in read_results("mutants") if row["file"] == name]
    if not rows:
        raise SystemExit(f"{name}: nothing has been saved of it; leave --again away")
    return rows[-1]


def _chosen(subject, args, last):
    """The mutants to try, in no order: there may be time for some of them only."""
    if last is not None:
        lines = subject.source.splitlines()
        left = {(one["text"], one["change"]) for one in last["survivors"]}
        return [m for m in subject.mutants if (lines[m.line - 1].strip(), m.change) in left]
    there = [m for m in subject.mutants if args.line in (None, m.line)]
    most = len(there) if args.sample is None else min(args.sample, len(there))
    return random.Random(args.seed).sample(there, most)


def ast_lines(source):
    """As a mutant that changes nothing has them."""
    import ast

    return ast.unparse(ast.parse(source)).splitlines()


if __name__ == "__main__":
    raise SystemExit(main())
