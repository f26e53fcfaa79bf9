"""The named strategies: what each must be, and reading one from TOML."""

import dataclasses
import re

import pytest

from jaxbert.errors import InputError
from jaxbert.optim import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    OptimizerConfig,
    Strategy,
    get_strategy,
    leaf_labels,
    load_strategies,
)
from jaxbert.optim.groups import make_groups
from jaxbert.optim.strategies import ALL_BUT_HEAD

PROJECT = ["high", "pretraining", "constant", "annealing", "cyclical", "discriminative", "uniform"]
LITERATURE = ["devlin2019", "ulmfit", "sun2019", "zhang2020", "mosbach2020", "electra", "lp-ft",
              "one-cycle", "frozen"]  # fmt: skip
EXPLORATORY = ["reinit", "unfreezing", "ema", "l2-sp", "schedule-free", "muon", "mixout", "sam",
               "lora"]  # fmt: skip


def test_the_strategies_of_the_project_and_the_literature_are_there():
    assert list(STRATEGIES) == [*PROJECT, *LITERATURE, *EXPLORATORY]
    assert DEFAULT_STRATEGY == "discriminative"
    assert all(row.about and row.source for row in STRATEGIES.values())


# Facts of EVIDENCE, section 3, and of the released codes; a subset of each row.
FACTS = {
    "high": {"learning_rate": 1e-3, "schedule": "constant", "layer_decay": 1},
    "pretraining": {"learning_rate": 1e-4, "schedule": "constant", "layer_decay": 1,
                    "warmup": 0.01},
    "constant": {"learning_rate": 5e-5, "schedule": "constant", "layer_decay": 1, "warmup": 0.01},
    "annealing": {"learning_rate": 1e-4, "schedule": "cosine", "warmup": None, "layer_decay": 1},
    "cyclical": {"learning_rate": 5e-5, "schedule": "triangular", "layer_decay": 1},
    "discriminative": {"learning_rate": 5e-5, "layer_decay": 0.9, "warmup": 0.1,
                       "schedule": "linear", "convention": "standard", "bias_correction": True},
    "devlin2019": {"learning_rate": 2e-5, "bias_correction": False, "epsilon": 1e-6, "warmup": 0.1},
    "ulmfit": {"learning_rate": 1e-4, "layer_decay": 1 / 2.6, "schedule": "slanted-triangular",
               "warmup": 0.1, "unfreezing": 1, "convention": "standard", "beta1": 0.7,
               "beta2": 0.99},
    "sun2019": {"learning_rate": 2e-5, "layer_decay": 0.95, "convention": "sun2019",
                "warmup": 0.1, "bias_correction": False, "epsilon": 1e-6},
    "zhang2020": {"learning_rate": 2e-5, "layer_decay": 0.95, "warmup": 0.1, "weight_decay": 0,
                  "bias_correction": True, "reinitialize_layers": 2},
    "mosbach2020": {"learning_rate": 2e-5, "bias_correction": True, "epsilon": 1e-6, "warmup": 0.1,
                    "schedule": "linear", "weight_decay": 0.01, "clip_norm": 1},
    "electra": {"learning_rate": 1e-4, "layer_decay": 0.8, "convention": "electra",
                "warmup": 0.1, "bias_correction": False, "epsilon": 1e-6},
    "lp-ft": {"learning_rate": 3e-5, "head_multiplier": 10, "layer_decay": 1, "frozen": (),
              "warmup": 0.1, "unfreezing": ((ALL_BUT_HEAD, 1),)},
    "one-cycle": {"learning_rate": 5e-5, "schedule": "one-cycle", "layer_decay": 1},
    "frozen": {"learning_rate": 1e-3, "warmup": 0.1, "unfreezing": 0, "frozen": (ALL_BUT_HEAD,)},
    "reinit": {"reinitialize_layers": 2, "layer_decay": 1},
    "unfreezing": {"unfreezing": 0.25},
    "ema": {"ema_decay": 0.99},
    "l2-sp": {"anchor_decay": 50},
    "mixout": {"mixout": 0.7},
    "schedule-free": {"optimizer": "schedule-free-adamw", "schedule": "constant", "beta1": 0.9},
    "muon": {"optimizer": "muon", "beta1": 0.95},
    "sam": {"sam_radius": 0.05},
    "lora": {"learning_rate": 5e-4, "lora_rank": 8, "lora_alpha": 8, "warmup": 0.06},
}  # fmt: skip
# What a row that is `uniform` but for one thing differs in.
OWN = {
    "reinit": {"reinitialize_layers"},
    "unfreezing": {"unfreezing"},
    "ema": {"schedule", "ema_decay"},
    "l2-sp": {"anchor_decay"},
    "schedule-free": {"schedule", "optimizer"},
    "muon": {"optimizer", "beta1"},
    "mixout": {"mixout"},
    "sam": {"sam_radius"},
}


@pytest.mark.parametrize("name", FACTS)
def test_a_row_says_what_its_source_says(name):
    config = STRATEGIES[name].config()
    assert {key: getattr(config, key) for key in FACTS[name]} == FACTS[name]


EPOCHS = {"devlin2019": 3, "ulmfit": 15, "sun2019": 4, "zhang2020": 3, "mosbach2020": 20,
          "electra": 3, "lp-ft": 4, "unfreezing": 6}  # fmt: skip


def test_epoch_hints():
    assert {name: row.epochs for name, row in STRATEGIES.items() if row.epochs} == EPOCHS
    assert Strategy("short", "", "", epochs=0.5).epochs == 0.5


def test_two_rows_claim_their_rate_itself():
    assert [row.name for row in STRATEGIES.values() if not row.tuned] == ["high", "pretraining"]


def test_the_control_differs_from_discriminative_in_rate_and_decay_only():
    uniform, default = (STRATEGIES[n].config() for n in ("uniform", "discriminative"))
    rate, decay = default.learning_rate, default.layer_decay
    assert dataclasses.replace(uniform, learning_rate=rate, layer_decay=decay) == default


@pytest.mark.parametrize("name", OWN)
def test_an_exploratory_row_is_the_control_but_for_its_own(name):
    control, row = (dataclasses.asdict(STRATEGIES[n].config()) for n in ("uniform", name))
    assert {key for key in row if row[key] != control[key]} == OWN[name]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"head": "qa_outputs", "pooler": False},
        {"head": "predictions", "pooler": False, "final_norm": True},
    ],
)
def test_every_strategy_fits_every_task_model(make_params, name, shape):
    groups = make_groups(STRATEGIES[name].config(), leaf_labels(make_params(**shape)))
    assert not groups["head"].frozen
    assert groups["head"].epoch == 0
    asleep = {label for label, group in groups.items() if group.frozen or group.epoch > 0}
    layered = set(groups) - {"head", "pooler", "final_norm"}
    adapted = {label for label in groups if re.fullmatch(r"layer_\d+", label)}
    wanted = {"frozen": set(groups) - {"head"}, "lp-ft": set(groups) - {"head"},
              "ulmfit": layered, "unfreezing": layered,
              "lora": set(groups) - {"head", "pooler"} - adapted}  # fmt: skip
    assert asleep == wanted.get(name, set())


def test_the_users_settings_win_over_the_row():
    row = STRATEGIES["discriminative"]
    config = row.config(learning_rate=1e-4, warmup=500)
    assert config == dataclasses.replace(row.config(), learning_rate=1e-4, warmup=500)
    with pytest.raises(ValueError, match="unknown lr"):
        row.config(lr=1)


def test_another_schedule_drops_the_rows_options():
    row = Strategy("x", "", "", {"schedule": "triangular", "schedule_options": {"cycles": 5}})
    assert row.config(learning_rate=1.0).schedule_options == (("cycles", 5),)
    assert row.config(schedule="triangular").schedule_options == (("cycles", 5),)
    assert row.config(schedule="linear").schedule_options == ()


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(InputError, match="strategy='fast' must be one of high, pretraining"):
        get_strategy("fast")
    assert get_strategy("frozen") is STRATEGIES["frozen"]


TOML = """
[gentle]
about = "a lower rate, and more of a slope"
learning_rate = 2e-5
layer_decay = 0.8
warmup = 0.1
schedule = "triangular"
schedule_options = { cycles = 5 }
multipliers = { pooler = 2.0, ".*/bias" = 0.5 }
unfreezing = [["layer_0", 2]]
frozen = ["embeddings"]
epochs = 5

[uniform]
learning_rate = 1e-5
"""


def test_strategies_from_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    strategies = load_strategies(path)
    assert list(strategies) == [*STRATEGIES, "gentle"]
    assert strategies["gentle"].epochs == 5
    assert strategies["gentle"].tuned
    assert strategies["gentle"].config() == OptimizerConfig(
        learning_rate=2e-5,
        layer_decay=0.8,
        warmup=0.1,
        schedule="triangular",
        schedule_options=(("cycles", 5),),
        multipliers=(("pooler", 2.0), (".*/bias", 0.5)),
        unfreezing=(("layer_0", 2),),
        frozen=("embeddings",),
    )
    assert strategies["uniform"].config() == OptimizerConfig(learning_rate=1e-5)
    assert STRATEGIES["uniform"].config().learning_rate == 3e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nlr = 1\nwarm_up = 2\n[b]\nlayers = 1",
         "strategy 'a': unknown lr, warm_up; known are about, .*strategy 'b': unknown layers"),
        ("[a]\nlearning_rate = 0\nschedule = 'x'",
         "strategy 'a': optimizer: learning_rate=0 must be .*schedule='x' must be"),
        ("[a]\nepochs = 0", "epochs=0 must be positive"),
        ("[a]\nepochs = true", "epochs=True must be positive"),
        ("[a]\ntuned = 1", "strategy 'a': tuned=1 must be true or false"),
        ("a = 1", r"strategy 'a' must be a table, \[a\], not 1"),
        ("a = ", "is no TOML file"),
        ("", "holds no strategy"),
    ],
)  # fmt: skip
def test_bad_toml_is_explained(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_strategies(path)
    assert str(path) in str(error.value)


def test_the_old_spelling_of_a_field_is_read(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text("[old]\nreinitialise_layers = 3")
    row = load_strategies(path)["old"]
    assert row.config().reinitialize_layers == 3
    assert row.config(reinitialize_layers=1).reinitialize_layers == 1
    path.write_text("[old]\nreinitialise_layers = 3\nreinitialize_layers = 3")
    message = "reinitialise_layers is now reinitialize_layers"
    with pytest.raises(InputError, match=message):
        load_strategies(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_strategies(tmp_path / "none.toml")
