"""What `python -m tests.mutate` changes in a module, and that it knows the tests of every file."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.mutants import mutants
from tests.mutate import REASONS, TESTS, Order, reasons

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxbert"

CHANGES = {
    "x = a < b <= c": ["< -> <=", "<= -> <"],
    "x = a not in b": ["not in -> in"],
    "x = a + 2": ["+ -> -", "2 -> 3", "2 -> 1"],
    "x += 1.5": ["+ -> -", "1.5 -> 2.5", "1.5 -> 0.5"],
    "x = a and b": ["and -> or"],
    "x = not a": ["not a -> a"],
    "x = -a": ["-a -> a"],
    "x = True": ["True -> False"],
    "if a:\n    raise b": ["if a -> if not", "raise b -> pass"],
    "def f():\n    return a": ["return a -> None"],
    "f(a)": ["f(a) -> pass"],
}
LEFT_ALONE = (
    '"""Text."""\nfrom a import b',
    "def f(x: int = a) -> int | None:\n    return None",
    "@b(3)\nclass A(B):\n    x: int",
    "x = f'{a + 1}'",
    "assert a == 1",
    "x = zip(a, b, strict=True)",
    "x = 1e30",
    "X = Callable[[A], 3]",
    "if TYPE_CHECKING:\n    x = 3",
)


@pytest.mark.parametrize(("source", "changes"), CHANGES.items())
def test_every_small_change_is_made(source, changes):
    found = mutants(source)
    assert [mutant.change for mutant in found] == changes
    assert len({mutant.source for mutant in found} - {source}) == len(changes)


@pytest.mark.parametrize("source", LEFT_ALONE)
def test_what_no_test_could_notice_is_left_alone(source):
    assert not mutants(source)


def test_one_thing_is_changed_at_a_time():
    source = "def f(x):\n    if x < 1:\n        x = x + 2\n    return x"
    for mutant in mutants(source):
        pairs = zip(mutant.source.splitlines(), source.splitlines(), strict=True)
        different = [place for place, (new, old) in enumerate(pairs, 1) if new != old]
        assert different == [mutant.line]


def test_the_tests_of_every_file_are_there():
    folders = ("optim", "tasks")
    wanted = {str(p.relative_to(PACKAGE)) for f in folders for p in (PACKAGE / f).glob("*.py")}
    # They have names, or pass them on: there is nothing in them to compute wrong.
    wanted -= {f"{folder}/__init__.py" for folder in folders}
    wanted -= {"tasks/task.py", "tasks/options.py", "tasks/registry.py"}
    assert wanted <= TESTS.keys()
    missing = [test for tests in TESTS.values() for test in tests
               if not (ROOT / "tests" / test).is_file()]  # fmt: skip
    assert not missing


def test_the_reasons_are_of_mutants_that_there_are():
    for name, text, change in reasons():
        source = (PACKAGE / name).read_text(encoding="utf-8")
        lines = source.splitlines()
        there = {(lines[m.line - 1].strip(), m.change) for m in mutants(source)}
        assert (text, change) in there, f"{REASONS}: {name}: {text}: {change}"


def test_what_has_noticed_a_change_nearby_goes_first_then_the_quick_file(tmp_path):
    items = [SimpleNamespace(nodeid=name, path=name[0]) for name in ("a1", "a2", "b1", "b2")]
    order = Order({"a1": 5.0, "a2": 0.1, "b1": 1.0, "b2": 2.0}, {"b2"}, tmp_path / "lines")
    order.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["b2", "b1", "a1", "a2"]
    for seconds, failed in ((0.5, False), (0.25, True)):
        report = SimpleNamespace(nodeid="a1", duration=seconds, failed=failed)
        order.pytest_runtest_logreport(report)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert lines == [
        {"test": "a1", "seconds": 0.5, "failed": False},
        {"test": "a1", "seconds": 0.25, "failed": True},
    ]
