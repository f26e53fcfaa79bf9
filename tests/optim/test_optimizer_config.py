"""The configuration: what it refuses, and JSON there and back."""

import dataclasses
import json
import math

import pytest

from jaxbert.errors import InputError
from jaxbert.optim import CONVENTIONS, OPTIMIZERS, SCHEDULES, OptimizerConfig
from jaxbert.optim.config import CONVENTION_NAMES, SCHEDULE_NAMES
from jaxbert.optim.strategies import strategy_from_table

FULL = OptimizerConfig(
    optimizer="lamb",
    learning_rate=3e-4,
    schedule="triangular2",
    schedule_options={"cycles": 4, "base": 0.1},
    warmup=100,
    layer_decay=0.8,
    convention="electra",
    head_multiplier=2.0,
    multipliers=[["pooler", 2.0], [".*/bias", 0.5]],
    frozen=["embeddings"],
    unfreezing={"layer_0": 2, "layer_1": 1},
    reinitialize_layers=1,
    weight_decay=0.1,
    clip_norm=None,
    beta1=0.8,
    beta2=0.95,
    epsilon=1e-8,
    bias_correction=False,
    ema_decay=0.99,
    lora_rank=4,
    lora_alpha=2.0,
    lora_targets=["pooler/kernel"],
)
# What does not go together with some of it.
REST = OptimizerConfig(anchor_decay=3.0, mixout=0.7, sam_radius=0.05)


DEFAULTS = {
    "optimizer": "adamw", "learning_rate": 5e-5, "schedule": "linear", "schedule_options": (),
    "warmup": None, "layer_decay": 1.0, "convention": "standard", "head_multiplier": 1.0,
    "multipliers": (), "frozen": (), "unfreezing": 0.0, "reinitialize_layers": 0,
    "weight_decay": 0.01, "clip_norm": 1.0, "beta1": 0.9, "beta2": None, "epsilon": 1e-6,
    "bias_correction": True, "anchor_decay": 0.0, "mixout": 0.0, "sam_radius": 0.0,
    "ema_decay": 0.0, "lora_rank": 0, "lora_alpha": 8.0,
    "lora_targets": (".*/attention/(query|value|query_key_value)/kernel",),
}  # fmt: skip


def test_the_defaults():
    """A run without settings is AdamW as BERT's authors fine-tune, but bias-corrected."""
    assert dataclasses.asdict(OptimizerConfig()) == DEFAULTS


def test_every_field_differs_from_its_default_in_the_full_examples():
    default = OptimizerConfig()
    for field in dataclasses.fields(OptimizerConfig):
        values = [getattr(config, field.name) for config in (default, FULL, REST)]
        assert len(set(values)) > 1, field.name


@pytest.mark.parametrize("config", [OptimizerConfig(), FULL, REST], ids=["default", "full", "rest"])
def test_json_there_and_back(config):
    text = json.dumps(dataclasses.asdict(config))
    again = OptimizerConfig.from_dict(json.loads(text))
    assert again == config
    assert hash(again) == hash(config)


def test_rows_become_tuples_in_their_order():
    assert FULL.multipliers == (("pooler", 2.0), (".*/bias", 0.5))
    assert FULL.schedule_options == (("cycles", 4), ("base", 0.1))
    assert FULL.unfreezing == (("layer_0", 2), ("layer_1", 1))
    assert FULL.frozen == ("embeddings",)


def test_unknown_keys_are_all_named():
    with pytest.raises(ValueError, match="unknown lr, warm_up; known are optimizer, learning_rate"):
        OptimizerConfig.from_dict({"lr": 1, "warm_up": 2, "schedule": "linear"})


def test_the_old_spelling_of_a_field_is_read():
    new = OptimizerConfig(reinitialize_layers=2)
    assert OptimizerConfig.from_dict({"reinitialise_layers": 2}) == new
    with pytest.raises(ValueError, match="reinitialise_layers is now reinitialize_layers"):
        OptimizerConfig.from_dict({"reinitialise_layers": 2, "reinitialize_layers": 2})


BAD = [
    ("optimizer", "adam", "one of adamw, adafactor, lamb, lion, sgd, "),
    ("optimizer", ["adamw"], "one of adamw"),
    ("learning_rate", 0.0, "a positive number"),
    ("learning_rate", "1e-4", "a positive number"),
    ("learning_rate", math.inf, "a positive number"),
    ("schedule", "cos", "one of constant, linear"),
    ("schedule", ["linear"], "one of constant, linear"),
    ("schedule_options", {"end": "0"}, r"rows of \(option, number\)"),
    ("schedule_options", [["end"]], r"rows of \(option, number\)"),
    ("schedule_options", {"end": 2}, r"in \[0, 1\]"),
    ("warmup", -0.1, "a fraction below 1 or a whole number of steps"),
    ("warmup", True, "a fraction below 1"),
    ("layer_decay", 1.1, r"a number in \(0, 1\]"),
    ("layer_decay", 0, r"a number in \(0, 1\]"),
    ("convention", "timm", "one of standard, sun2019, electra"),
    ("head_multiplier", -1, "a positive number"),
    ("multipliers", {"pooler": 0}, "number > 0.*freeze it"),
    ("multipliers", {"(": 1}, "no regular expression"),
    ("frozen", "embeddings", "a list of patterns"),
    ("frozen", [1], "a list of patterns"),
    ("frozen", ["*"], "no regular expression"),
    ("unfreezing", -1, "epochs >= 0"),
    ("unfreezing", {"head": -1}, "epochs >= 0"),
    ("unfreezing", {"[": 1}, "no regular expression"),
    ("reinitialize_layers", 1.5, "a whole number"),
    ("weight_decay", -0.01, "a number, at least 0"),
    ("clip_norm", 0, "a positive number or None"),
    ("beta1", 1.0, r"a number in \[0, 1\)"),
    ("beta2", -0.1, r"a number in \[0, 1\)"),
    ("epsilon", 0, "a positive number"),
    ("bias_correction", 1, "True or False"),
    ("anchor_decay", -1, "a number, at least 0"),
    ("mixout", 1, r"a number in \[0, 1\)"),
    ("sam_radius", "0.05", "a number, at least 0"),
    ("ema_decay", 1.0, r"a number in \[0, 1\)"),
    ("lora_rank", 0.5, "a whole number"),
    ("lora_alpha", 0, "a positive number"),
    ("lora_targets", [], "a list of patterns, one at least"),
    ("lora_targets", ["("], "no regular expression"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD)
def test_a_bad_value_is_named_with_what_is_wanted(name, value, wanted):
    # Of the value, the start: mappings are shown as the rows they became.
    with pytest.raises(
        ValueError, match=f"^optimizer: .*{name.removesuffix('_options')}.*{wanted}"
    ):
        OptimizerConfig(**{name: value})


def test_all_bad_values_are_named_at_once():
    last = {name: value for name, value, _ in BAD}
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is checked below)
        OptimizerConfig(**last)
    assert all(name.removesuffix("_options") in str(error.value) for name in last)
    assert "\n" not in str(error.value)


IGNORED = {
    "adamw": (),
    "lamb": (),
    "lion": ("epsilon", "bias_correction"),
    "sgd": ("beta2", "epsilon", "bias_correction"),
    "adafactor": ("beta1", "beta2", "epsilon", "bias_correction"),
    "schedule-free-adamw": ("bias_correction",),
    "muon": ("bias_correction",),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_settings_an_optimizer_would_ignore_are_refused(optimizer):
    other = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-8, "bias_correction": False}
    for name, value in other.items():
        if name in IGNORED[optimizer]:
            message = f"{name}={value} has no meaning for {optimizer!r}"
            with pytest.raises(InputError, match=message):
                OptimizerConfig(optimizer=optimizer, **{name: value})
        else:
            assert getattr(OptimizerConfig(optimizer=optimizer, **{name: value}), name) == value
    # At their defaults they ask for nothing.
    OptimizerConfig(optimizer=optimizer)


FREE = {"optimizer": "schedule-free-adamw"}
NOT_TOGETHER = [
    (FREE | {"ema_decay": 0.9}, "schedule-free-adamw and ema_decay do not go together: both"),
    (FREE | {"unfreezing": 1}, "schedule-free-adamw and unfreezing do not go together"),
    (FREE | {"lora_rank": 8}, "lora_rank and schedule-free-adamw do not go together"),
    (FREE | {"beta1": 0.0}, "beta1=0 leaves 'schedule-free-adamw' no average"),
    ({"sam_radius": 0.1, "unfreezing": {"layer_0": 1}}, "sam_radius and unfreezing do not"),
    ({"lora_rank": 8, "optimizer": "muon"}, "lora_rank and muon do not go together"),
    ({"lora_rank": 8, "anchor_decay": 1.0}, "lora_rank and anchor_decay do not go together"),
    ({"lora_rank": 8, "mixout": 0.5}, "lora_rank and mixout do not go together"),
    ({"lora_rank": 8, "sam_radius": 0.5}, "lora_rank and sam_radius do not go together"),
    ({"lora_alpha": 16.0}, "lora_alpha without lora_rank: give it"),
]


@pytest.mark.parametrize(("fields", "message"), NOT_TOGETHER)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(InputError, match=f"^optimizer: {message}"):
        OptimizerConfig(**fields)
    for name in fields.keys() - {"lora_alpha", "optimizer", "beta1"}:
        OptimizerConfig(**{name: fields[name]})  # alone it may


def test_methods_are_those_that_are_on():
    assert OptimizerConfig().methods == {}
    assert FULL.methods == {"ema_decay": 0.99, "lora_rank": 4}
    assert REST.methods == {"anchor_decay": 3.0, "mixout": 0.7, "sam_radius": 0.05}


def test_what_an_earlier_version_called_it_is_read():
    fields = dataclasses.asdict(FULL)
    fields["reinitialise_layers"] = fields.pop("reinitialize_layers")
    assert OptimizerConfig.from_dict(fields) == FULL
    with pytest.raises(InputError, match="is now reinitialize_layers, and both are given"):
        OptimizerConfig.from_dict({"reinitialise_layers": 1, "reinitialize_layers": 2})
    row = strategy_from_table("gentle", {"reinitialise_layers": 1})
    assert row.config().reinitialize_layers == 1


def test_the_names_that_flags_offer_are_those_there_are():
    assert tuple(SCHEDULES) == SCHEDULE_NAMES
    assert tuple(CONVENTIONS) == CONVENTION_NAMES


def test_every_field_says_what_it_is():
    for field in dataclasses.fields(OptimizerConfig):
        assert field.metadata["help"], field.name
