"""Plans: what they say, and that every mistake in one is named, all at once."""

from pathlib import Path

import pytest

from jaxbert.errors import InputError
from jaxbert.lab.adaptation import NAME as TASK_ADAPTIVE
from jaxbert.lab.plan_file import Margins, Only, directory_of, filled, plan_of, read_plan
from jaxbert.optim import STRATEGIES

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "lab" / "study.toml"


def tables(**more):
    return {
        "control": "uniform",
        "strategies": ["uniform", "high"],
        "sizes": {"100": 20, "full": 1},
        "models": {"a": {"model": "demo"}, "b": {"model": "{b}", "tasks": ["films"]}},
        "tasks": {"films": {"demo": True}, "sst2": {"margins": {"in_domain": 0.02}}},
        **more,
    }


def test_the_committed_plan():
    plan = read_plan(COMMITTED)
    assert plan.control == "uniform"
    assert set(plan.all_strategies) <= {*STRATEGIES, TASK_ADAPTIVE}
    assert plan.margins == Margins(in_domain=0.005, out_of_domain=0.01)
    assert (plan.seeds.most, plan.grid.seeds) == (30, 3)
    assert len({t for t, _ in plan.studies}) >= 4
    claimed = {"high", "pretraining", "annealing", "cyclical", "discriminative", "uniform"}
    assert claimed <= set(plan.strategies)


def test_what_a_plan_says():
    plan = plan_of(tables(exploratory={"strategies": ["lp-ft"], "sizes": ["100"]}))
    assert plan.studies == [("films", "a"), ("films", "b"), ("sst2", "a")]
    assert plan.all_strategies == ("uniform", "high", "lp-ft")
    assert [plan.has(s, n) for s in ("100", "full") for n in ("high", "lp-ft")] == [
        True, True, True, False
    ]  # fmt: skip
    assert plan.margins_of("films") == Margins()
    assert plan.margins_of("sst2") == Margins(in_domain=0.02)
    assert directory_of("films", "a") == "films--a"


MISTAKES = {
    "unknown colour; known are control": {"colour": 3},
    "control='none' is not among": {"control": "none"},
    "strategies named twice: high": {"exploratory": {"strategies": ["high"]}},
    r"exploratory.sizes 7: not among the sizes": {"exploratory": {"sizes": ["7"]}},
    r"strategies='uniform' must be a list": {"strategies": "uniform"},
    "sizes: many: want full, or a number": {"sizes": {"many": 1}},
    "sizes: 100 = 0: want a number of epochs": {"sizes": {"100": 0}},
    r"sizes must be a table, \[sizes\], not 3": {"sizes": 3},
    "sizes: none": {"sizes": {}},
    "seeds.first=1 must be a whole number, 2 at least": {"seeds": {"first": 1}},
    "seeds.most=3 is less than first=5": {"seeds": {"most": 3}},
    "seeds: unknown last; known are first, most": {"seeds": {"last": 3}},
    r"grid.rates=\(0,\) must be a list of positive": {"grid": {"rates": [0]}},
    "grid.seeds=0 must be": {"grid": {"seeds": 0}},
    "grid.extensions=-1 must be": {"grid": {"extensions": -1}},
    "margins.in_domain=-1 must be a positive number": {"margins": {"in_domain": -1}},
    "margins.in_domain='x' must be a positive number": {"margins": {"in_domain": "x"}},
    "models: none": {"models": {}},
    r"models.a must be a table, not 3": {"models": {"a": 3}},
    r"models.a--b: want a name": {"models": {"a--b": {"model": "demo"}}},
    r"models.\.\.: want a name": {"models": {"..": {"model": "demo"}}},
    "models.a.pretraining_rate=0 must be": {"models": {"a": {"pretraining_rate": 0}}},
    "models.a.tasks x: not among the tasks": {"models": {"a": {"tasks": ["x"]}}},
    "models.a.tasks='x' must be a list": {"models": {"a": {"tasks": "x"}}},
    "tasks.t.margins must be a table, not 3": {"tasks": {"t": {"margins": 3}}},
    "tasks.t.margins: unknown inside": {"tasks": {"t": {"margins": {"inside": 1}}}},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises(InputError, match=message):
        plan_of(tables(**MISTAKES[message]))


def test_mistakes_are_named_all_at_once(tmp_path):
    (tmp_path / "plan.toml").write_text('control = "none"\ncolour = 3\n[seeds]\nlast = 3\n')
    with pytest.raises(InputError) as error:
        read_plan(tmp_path / "plan.toml")
    for part in ("plan.toml", "colour", "last", "strategies is missing", "tasks is missing"):
        assert part in str(error.value)
    (tmp_path / "plan.toml").write_text("control = ")
    with pytest.raises(InputError, match=r"plan.toml is no TOML file"):
        read_plan(tmp_path / "plan.toml")


def test_which_cells():
    only = Only.parse("*/a/100/high/1?")
    assert only.takes(task="films", model="a")
    assert only.takes(size="100", strategy="high", seed="17")
    assert not only.takes(size="100", strategy="high", seed="7")
    assert only.names_seeds
    every = Only.parse(None)
    assert every.takes(task="x", seed="3")
    assert not every.names_seeds
    Only.parse("films/b").check(plan_of(tables()))
    for text in ("a//b", "a/b/c/d/e/f", "/"):
        with pytest.raises(InputError, match="want TASK/MODEL/SIZE/STRATEGY/SEED"):
            Only.parse(text)
    with pytest.raises(InputError, match="task 'x' is not among films, sst2; size '7' is not"):
        Only.parse("x/a/7").check(plan_of(tables()))


def test_places_are_filled():
    table = {"train": "{a}/{b}.csv", "out": ["x={a}/y"], "deep": {"z": "{b}"}, "n": 3}
    assert filled(table, {"a": "/d", "b": "e"}) == {
        "train": "/d/e.csv", "out": ["x=/d/y"], "deep": {"z": "e"}, "n": 3
    }  # fmt: skip
    with pytest.raises(InputError, match="--directory a=DIR --directory b=DIR"):
        filled(table, {})
