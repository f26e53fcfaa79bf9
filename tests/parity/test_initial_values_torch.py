"""What a new model is drawn from, tensor by tensor, beside what transformers draws it from."""

import numpy as np
import pytest
import torch
import transformers
from families import CONFIGS, class_name, our_class
from flax import nnx
from safetensors.numpy import load_file

SIZE = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
DISTIL = dict(dim=64, n_layers=2, n_heads=4, hidden_dim=96)
HEADS = ("ForSequenceClassification", "ForMaskedLM")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_moments_are_those_of_transformers(tmp_path, family, head):
    case = next(iter(CONFIGS[family].values()))
    said = case | (DISTIL if family == "distilbert" else SIZE) | dict(vocab_size=600, num_labels=40)
    said.pop("layer_types", None)
    if family == "modernbert":
        said |= dict.fromkeys(("bos_token_id", "cls_token_id"), 1)
        said |= dict.fromkeys(("eos_token_id", "sep_token_id"), 2) | dict(pad_token_id=0)
    torch.manual_seed(0)
    theirs = getattr(transformers, class_name(family, "Config"))(**said, initializer_range=0.05)
    drawn = getattr(transformers, class_name(family, head))(theirs).state_dict()
    ours = our_class(family, head)
    config = ours.config_class.from_hf(theirs.to_dict())
    ours(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    compared = 0
    for name, values in load_file(tmp_path / "model.safetensors").items():
        other = drawn[name].numpy()
        if values.std() == other.std() == 0:  # ones and zeros
            np.testing.assert_array_equal(values, other)
            continue
        # The standard deviation of a standard deviation, of two, five times.
        within = 5 * values.size**-0.5 + 2 / 600  # and transformers has zeros for the padding's row
        assert values.std() == pytest.approx(other.std(), rel=within), name
        assert abs(values.mean() - other.mean()) < 5 * (2 / values.size) ** 0.5 * values.std(), name
        # A normal's largest of thousands is beyond 3 deviations, a truncated one's never.
        deviation = values.std()
        if values.size >= 4000:
            assert (np.abs(values).max() > 2.6 * deviation) == (
                np.abs(other).max() > 2.6 * other.std()
            ), name
        compared += 1
    assert compared > 8
