"""`TrainConfig` survives JSON, and names everything that is wrong at once."""

import dataclasses
import json

import pytest

from jaxbert.errors import InputError
from jaxbert.optim import OptimizerConfig
from jaxbert.training import TrainConfig
from jaxbert.training.config import ENGINES


def test_json_round_trip():
    optimizer = OptimizerConfig(
        frozen=("embeddings",), multipliers=(("head", 2.0),), unfreezing=(("layer_0", 1.0),)
    )
    config = TrainConfig(
        epochs=5, layout="padded", metric="loss", patience=2, label_smoothing=0.1,
        optimizer=optimizer,
    )  # fmt: skip
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TrainConfig.from_dict(stored) == config
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_every_bad_value_is_named():
    with pytest.raises(ValueError, match="training: ") as error:
        TrainConfig(
            epochs=0, batch_size=2.5, seed=-1, accumulation=True, label_smoothing=1.0,
            layout="pakced", patience=0,
        )  # fmt: skip
    for part in (
        "epochs=0 must be a whole number, at least 1",
        "batch_size=2.5",
        "seed=-1 must be a whole number, at least 0",
        "accumulation=True",
        "label_smoothing=1.0 must be in [0, 1)",
        "layout='pakced' must be one of packed, bucketed, padded",
        "patience=0",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("missing", ["epochs", "batch_size", "seed", "log_every"])
def test_none_only_where_it_means_something(missing):
    with pytest.raises(ValueError, match=f"{missing}=None must be a whole number"):
        TrainConfig(**{missing: None})


def test_label_smoothing_of_a_wrong_type():
    with pytest.raises(ValueError, match=r"label_smoothing='0.1' must be"):
        TrainConfig(label_smoothing="0.1")


def test_unknown_keys_are_all_named():
    with pytest.raises(ValueError, match="unknown batchsize, lr; known are epochs, batch_size"):
        TrainConfig.from_dict({"lr": 1, "batchsize": 2, "epochs": 3})
    with pytest.raises(ValueError, match="optimizer: unknown lr"):
        TrainConfig.from_dict({"optimizer": {"lr": 1}})


@pytest.mark.parametrize("optimizer", [5, None, ["adamw"]])
def test_a_single_value_for_the_optimizer_is_refused_by_name(optimizer):
    with pytest.raises(InputError, match=r"optimizer=.*it holds settings by name"):
        TrainConfig.from_dict({"optimizer": optimizer})


def test_an_optimizer_that_is_one_already_is_taken():
    optimizer = OptimizerConfig(learning_rate=1.0)
    assert TrainConfig.from_dict({"optimizer": optimizer}).optimizer is optimizer


def test_the_engines_that_flags_offer_are_those_there_are():
    from jaxbert.training import engines

    assert engines.ENGINES == ENGINES


def test_every_field_says_what_it_is():
    for field in dataclasses.fields(TrainConfig):
        assert field.name == "optimizer" or field.metadata["help"], field.name
