"""Running a plan: which runs are made, when seeds are added, and what lies on disk after it."""

import dataclasses
import json
import math
from types import SimpleNamespace

import lab_journals
import numpy as np
import pytest
import tiny

from jaxbert.errors import InputError
from jaxbert.lab.campaign import check_strategies, run_plan, study_of
from jaxbert.lab.journals import Collection, read
from jaxbert.lab.metric import ACCURACY, FIRST
from jaxbert.lab.plan_file import Only, plan_of
from jaxbert.lab.records import MERGED
from jaxbert.optim import STRATEGIES

TEXT = """
control = "uniform"
strategies = ["uniform", "high", "discriminative"]
sizes = { 8 = 1 }
seeds = { first = 3, most = 5 }
grid = { rates = [1e-4, 3e-4, 1e-3], seeds = 2, extensions = 2 }
[exploratory]
strategies = ["electra"]
sizes = ["8"]
[models.a]
model = "demo"
[tasks.films]
demo = true
[tasks.mail]
train = "x"
"""
GOOD = {"uniform": 0.8, "discriminative": 0.8, "electra": 0.8, "high": 0.3}


class Laboratory:
    """Writes journals in place of training: scores by strategy, with the luck of a seed."""

    def __init__(self, good=GOOD, network="a0"):
        self.good, self.network = good, network
        elsewhere = {"mail": tiny.CLASSES}
        self.data = SimpleNamespace(
            train=tiny.CLASSES, domain="films", out_of_domain=elsewhere, task="text-classification"
        )
        self.metric, self.task = ACCURACY, SimpleNamespace(name=self.data.task)
        self.made = []

    def describe(self):
        about = lab_journals.about()
        return {**FIRST, **{name: about[name] for name in ("model", "data", "training")}}

    def steps(self, examples, epochs):
        return 1

    def run(self, optimizer, journal, about, *, seed, only_development, curve, **_):
        self.made.append((about["strategy"], optimizer.learning_rate, seed))
        # Of a plan's study only these are kept.
        assert curve == (only_development or seed == 0)
        rate, network = optimizer.learning_rate, self.network
        if only_development:  # best at 3e-3, beyond the grid
            score = 0.8 - 0.1 * abs(math.log10(rate / 3e-3))
            lab_journals.journal(journal, test=score, rate=rate, network=network)
        else:
            rng = np.random.default_rng([seed, *about["strategy"].encode()])
            rows = rng.random((2, 300)) < self.good[about["strategy"]]
            hits = {"test": rows[0], "mail": rows[1]}
            lab_journals.journal(journal, hits=hits, rate=rate, network=network)
        return json.loads(journal.read_text().splitlines()[-1])


@pytest.fixture
def plan():
    import tomllib

    return plan_of(tomllib.loads(TEXT))


def run(plan, directory, only=None, good=GOOD, network="a0"):
    laboratory = Laboratory(good, network)
    run_plan(
        plan, TEXT, directory, lambda task, model: laboratory, STRATEGIES,
        only=Only.parse(only), show=False,
    )  # fmt: skip
    return laboratory.made


@pytest.fixture
def whole(plan, tmp_path):
    return tmp_path / "out", run(plan, tmp_path / "out")


def test_seeds_are_added_where_they_are_wanted(whole):
    directory, _ = whole
    found = read(directory)
    assert isinstance(found, Collection)
    assert list(found.studies) == [("films", "a"), ("mail", "a")]
    assert (found.missing, found.absent) == (0, ())
    for study in found.studies.values():
        seeds = {name: len(study.cell("8", name)) for name in study.strategies}
        # `high` is far behind, and electra beside the question; the others are too noisy.
        assert seeds == {"uniform": 5, "high": 3, "discriminative": 5, "electra": 3}


def test_no_seeds_are_added_where_the_control_guesses(plan, tmp_path):
    run(plan, tmp_path, "films", good=GOOD | {"uniform": 0.5})
    study = read(tmp_path / "films--a")
    assert study.guesses("8")
    assert all(len(study.cell("8", name)) == 3 for name in study.strategies)


def test_the_grid_goes_on_until_the_best_is_inside(whole):
    directory, made = whole
    about = json.loads((directory / "films--a" / "study.json").read_text())
    assert about["grid"]["chosen"] == {
        "8": {"uniform": 0.00333, "discriminative": 0.00333, "electra": 0.00333}
    }
    assert about["plan"] == "films/a"
    study = read(directory / "films--a")
    assert list(study.grid["8"]["uniform"]) == [1e-4, 3e-4, 1e-3, 0.00333, 0.0111]
    assert set(study.grid["8"]["uniform"][0.0111]) == {100, 101}
    assert study.grid["8"]["high"] == {}
    rates = {rate for name, rate, seed in made if name == "uniform" and seed < 100}
    assert rates == {0.00333}


def test_what_is_there_is_not_run_again(plan, whole):
    directory, made = whole
    assert len(made) == len(set(made)) * 2  # two tasks
    before = (directory / "films--a" / MERGED).read_bytes()
    assert run(plan, directory) == []
    assert (directory / "films--a" / MERGED).read_bytes() == before


@pytest.mark.parametrize(("first", "named"), [("a0", "a0"), (None, "not named")])
def test_a_size_has_runs_of_one_network(plan, tmp_path, first, named):
    two = dataclasses.replace(plan, sizes={**plan.sizes, "12": 1})
    run(two, tmp_path, "films/a/8/uniform/[01]", network=first)
    with pytest.raises(InputError, match=rf"runs.8 has .* {named}, and this is b1: .* delete"):
        run(two, tmp_path, "films/a/8/*/[012]", network="b1")
    assert len(read(tmp_path / "films--a").cell("8", "uniform")) == 2
    # At another size nothing is compared with those, and of those nothing is to be made.
    made = run(two, tmp_path, "films/a/*/uniform/[01]", network="b1")
    assert {seed for _, _, seed in made} == {0, 1, 100, 101}
    study = read(tmp_path / "films--a")
    assert [study.networks(size) for size in study.sizes] == [[named], ["b1"]]


def test_runs_of_two_networks_are_not_compared(plan, tmp_path):
    run(plan, tmp_path, "films/a/8/uniform/[01]")
    lab_journals.journal(tmp_path / "films--a/runs/8/high/0.jsonl", network="b1")
    with pytest.raises(InputError, match=r"runs/8 has runs of different networks \(a0, b1\)"):
        read(tmp_path / "films--a")
    with pytest.raises(InputError, match="different networks"):
        run(plan, tmp_path, "films/a/8/uniform/2")


def test_only_some_cells(plan, tmp_path):
    made = run(plan, tmp_path, "films/a/8/high/7")
    assert made == []  # no such seed
    with pytest.raises(FileNotFoundError, match="no finished run"):
        read(tmp_path)
    run(plan, tmp_path, "mail/a/8/uniform/7")  # the grid alone
    run(plan, tmp_path, "films/a/8/high/3")
    assert read(tmp_path).absent == (("mail", "a"),)
    made = run(plan, tmp_path, "films/a/8/uniform/4")
    assert [seed for _, _, seed in made if seed < 100] == [4]
    assert len([seed for _, _, seed in made if seed >= 100]) == 5 * 2
    assert {name for name, _, _ in made} == {"uniform"}
    made = run(plan, tmp_path, "films/a/8/high")
    assert [seed for _, _, seed in made] == [0, 1, 2]
    found = read(tmp_path)
    assert found.absent == (("mail", "a"),)
    assert found.missing == 3 + 3 + 3  # of uniform 0 to 2, and all of two others
    # The rest joins what is there.
    run(plan, tmp_path)
    assert read(tmp_path).missing == 0


def test_the_models_own_pretraining_rate():
    plan = plan_of(
        {
            "control": "uniform",
            "strategies": ["uniform", "pretraining"],
            "sizes": {"full": 1},
            "models": {"a": {"pretraining_rate": 6e-4}, "b": {}},
            "tasks": {"t": {}},
        }
    )
    own = study_of(plan, "t", "a", STRATEGIES).strategies["pretraining-own"].config()
    base = STRATEGIES["pretraining"].config()
    assert (own.learning_rate, base.learning_rate) == (6e-4, 1e-4)
    assert own.schedule == base.schedule
    assert "pretraining-own" not in study_of(plan, "t", "b", STRATEGIES).strategies


def test_the_models_own_rate_is_run_wherever_pretrainings_is(tmp_path):
    """Not only where exploratory strategies are: it is one of the claims, as that is."""
    import tomllib

    content = tomllib.loads(TEXT)
    content["strategies"].append("pretraining")
    content["sizes"]["12"] = 1
    content["models"]["a"]["pretraining_rate"] = 6e-4
    good = GOOD | {"pretraining": 0.8, "pretraining-own": 0.8}
    run(plan_of(content), tmp_path, "films/a/12/pretraining*", good)
    study = read(tmp_path / "films--a")
    assert [*study.cell("12", "pretraining")] == [*study.cell("12", "pretraining-own")] != []
    assert run(plan_of(content), tmp_path, "films/a/12/pretraining-own", good) == []


def test_unknown_strategies_are_all_named(plan):
    with pytest.raises(InputError, match="strategies high, electra are not known; known are"):
        check_strategies(plan, {n: STRATEGIES[n] for n in ("uniform", "discriminative")})
