"""BertConfig and Compute: what they read, what they refuse, and the published sizes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from jaxbert.errors import InputError
from jaxbert.models import BertConfig, BertModel, Compute


def count_parameters(config: BertConfig) -> int:
    shapes = nnx.eval_shape(lambda: nnx.state(BertModel(config, rngs=nnx.Rngs(0))))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("bert-base-uncased", 109_482_240),
        ("bert-base-cased", 108_310_272),
        ("bert-large-uncased", 335_141_888),
        ("bert-large-cased", 333_579_264),
        ("bert-base-multilingual-cased", 177_853_440),
        ("bert-base-multilingual-uncased", 167_356_416),
        ("bert-tiny", 4_385_920),
        ("bert-mini", 11_170_560),
        ("bert-small", 28_763_648),
        ("bert-medium", 41_373_184),
        ("minilm-l6-h384", 22_713_216),
    ],
)
def test_preset_has_its_published_parameter_count(preset, published):
    assert count_parameters(BertConfig.preset(preset)) == published


def test_every_preset_is_counted():
    names = {
        mark.args[1][i][0]
        for mark in test_preset_has_its_published_parameter_count.pytestmark
        for i in range(len(mark.args[1]))
    }
    assert names == set(BertConfig.presets)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'bert-huge' is unknown; choose one of bert-base-uncased"
    ):
        BertConfig.preset("bert-huge")


def test_hf_round_trip():
    config = BertConfig(
        hidden_size=12,
        num_attention_heads=3,
        num_labels=3,
        id2label=("low", "mid", "high"),
        classifier_dropout=0.3,
        problem_type="single_label_classification",
    )
    assert BertConfig.from_hf(config.to_hf()) == config


def test_special_tokens_are_kept():
    """Nothing here reads them; left out, transformers would take its own defaults for them."""
    hf = {"model_type": "bert", "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": None}
    written = BertConfig.from_hf(hf).to_hf()
    assert (written["sep_token_id"], written["bos_token_id"]) == (3, 2)
    assert "eos_token_id" not in written


def test_what_is_tuned_and_how_it_was_trained_is_kept():
    config = BertConfig(thresholds=(("yes", 0.25),), settings=(("max_length", 16), ("stride", 2)))
    hf = json.loads(json.dumps(config.to_hf()))
    assert hf["task_specific_params"] == {
        "thresholds": {"yes": 0.25},
        "settings": {"max_length": 16, "stride": 2},
    }
    assert BertConfig.from_hf(hf) == config
    assert "task_specific_params" not in BertConfig().to_hf()


@pytest.mark.parametrize("name", ["thresholds", "settings"])
@pytest.mark.parametrize("given", [[1], {"a": [1]}, {"a": {}}, "a"])
def test_what_cannot_be_kept_so_is_named(name, given):
    with pytest.raises(InputError, match=rf"config\.json: {name} must be .* by name"):
        BertConfig.from_hf({"task_specific_params": {name: given}})


def test_generic_label_names_are_no_names():
    config = BertConfig.from_hf({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}})
    assert (config.num_labels, config.id2label) == (3, None)


def test_keys_that_change_nothing_are_ignored():
    hf = {"model_type": "bert", "transformers_version": "9", "use_cache": True, "dtype": "float32"}
    assert BertConfig.from_hf(hf) == BertConfig()


def test_nothing_that_says_nothing_is_refused():
    """Null says nothing, and transformers writes it; keys with _ are its own notes."""
    hf = {"norm_first": None, "_name_or_path": "x", "embedding_size": 768, "pooler_fc_size": 768}
    assert BertConfig.from_hf(hf) == BertConfig()


def test_a_checkpoint_of_several_labels_has_an_encoder_too():
    config = BertConfig.from_hf({"problem_type": "multi_label_classification"})
    assert config.to_hf()["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_first", True),
        ("layer_scale", 0.1),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("model_type", "gpt2"),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 8}),
        ("embedding_size", 128),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        BertConfig.from_hf({key: value})


def test_all_refusals_come_at_once():
    with pytest.raises(ValueError, match=r"model_type='t5'.*is_decoder=True"):
        BertConfig.from_hf({"is_decoder": True, "model_type": "t5"})


def test_all_bad_fields_are_named_at_once():
    with pytest.raises(ValueError, match=r"vocab_size.*hidden_dropout_prob.*hidden_act"):
        BertConfig(vocab_size=0, hidden_dropout_prob=1.0, hidden_act="softsign")
    with pytest.raises(ValueError, match="hidden_size=10 must be a multiple of"):
        BertConfig(hidden_size=10, num_attention_heads=3)
    with pytest.raises(ValueError, match="id2label has 1 names"):
        BertConfig(num_labels=2, id2label=("only",))


def test_names_of_labels_differ():
    with pytest.raises(InputError, match="id2label must have different names, got yes twice"):
        BertConfig(num_labels=3, id2label=("yes", "no", "yes"))


@pytest.mark.parametrize("given", [{"a": "x"}, {"1": "x"}, {"0": "x", "00": "y"}, ["x"], {None: 1}])
def test_labels_are_numbered_from_0(given):
    with pytest.raises(InputError, match=r"config\.json: id2label must number.*mend it there"):
        BertConfig.from_hf({"id2label": given})


def test_compute_names_unknown_dtypes():
    with pytest.raises(ValueError, match=r"dtype='int8' must .*param_dtype='float64' must"):
        Compute(dtype="int8", param_dtype="float64")


def test_frozen_and_hashable():
    assert hash(BertConfig()) == hash(BertConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig().vocab_size = 3
