"""Small random networks of every family, in PyTorch and here; rows of each kind of padding."""

import numpy as np
import torch
import transformers

import jaxbert
from jaxbert.models.auto import FAMILIES, HEADS

COMMON = dict(vocab_size=83, initializer_range=0.2)
# {family: {case: what its configuration in transformers says}}. The cases are as different as the
# family's networks are: odd widths, one layer, what it has of its own switched the other way.
_PLAIN = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=37,
    max_position_embeddings=64,
)  # fmt: skip
_DISTIL = dict(dim=24, n_layers=2, n_heads=3, hidden_dim=37, max_position_embeddings=64)
_ONE = dict(hidden_size=15, num_hidden_layers=1, num_attention_heads=1)
_DISENTANGLED = dict(
    relative_attention=True, position_biased_input=False, position_buckets=8,
    max_relative_positions=16, pos_att_type="p2c|c2p", share_att_key=True,
    norm_rel_ebd="layer_norm",
)  # fmt: skip
CONFIGS = {
    "roberta": {
        "plain": _PLAIN | dict(layer_norm_eps=1e-5, type_vocab_size=1, num_labels=5),
        "one layer": _PLAIN | _ONE | dict(pad_token_id=3, hidden_act="relu", type_vocab_size=2),
    },
    "xlm-roberta": {"plain": _PLAIN | dict(layer_norm_eps=1e-5, type_vocab_size=1)},
    "distilbert": {
        "plain": _DISTIL | dict(num_labels=3),
        "one layer": _DISTIL | dict(dim=15, n_layers=1, n_heads=1, activation="relu"),
    },
    "electra": {
        "projected": _PLAIN | dict(embedding_size=10, num_labels=3),
        "one layer": _PLAIN | _ONE | dict(embedding_size=15, hidden_act="gelu_new"),
    },
    "modernbert": {
        "plain": _PLAIN
        | dict(num_hidden_layers=4, num_attention_heads=2, local_attention=8, num_labels=3),
        "mean": _PLAIN
        | dict(num_attention_heads=3, local_attention=6, classifier_pooling="mean")
        | dict(layer_types=["sliding_attention", "full_attention"]),
    },
    "deberta-v2": {
        "plain": _PLAIN | _DISENTANGLED | dict(num_labels=3),
        "other": _PLAIN
        | _ONE
        | _DISENTANGLED
        | dict(position_biased_input=True, type_vocab_size=2, share_att_key=False)
        | dict(norm_rel_ebd="none", pos_att_type=["c2p"], position_buckets=-1),
    },
    "mpnet": {
        "plain": _PLAIN | dict(layer_norm_eps=1e-5),
        "one layer": _PLAIN | _ONE | dict(num_labels=3),
    },
    "albert": {
        "two groups": _PLAIN
        | dict(embedding_size=10, num_hidden_layers=4, num_hidden_groups=2, num_labels=3),
        "one group": _PLAIN | dict(embedding_size=24, num_hidden_layers=3),
    },
}
CASES = [(family, case) for family, cases in CONFIGS.items() for case in cases]


def all_heads(family):
    row = FAMILIES[family]
    return [*HEADS, *row.further]


def head_cases():
    return [(f, case, head) for f, case in CASES for head in all_heads(f)]


def class_name(family, head):
    return f"{FAMILIES[family].prefix}{head}"


def torch_config(family, case, head, **fields):
    said = COMMON | CONFIGS[family][case] | fields
    if head == "ForQuestionAnswering":
        said.pop("num_labels", None)  # its two outputs are start and end, never labels
    if family == "modernbert":
        said = dict(pad_token_id=0, eos_token_id=2, bos_token_id=1, cls_token_id=1) | said
        said |= dict(sep_token_id=2)
    config = getattr(transformers, class_name(family, "Config"))(**said)
    config._attn_implementation = "eager"
    return config


def torch_model(family, case, head, seed=0, **fields):
    """Random weights wide enough that attention is far from uniform and gelu from linear.

    fields: instead of those of the case; with an `initializer_range` it is drawn as it comes.
    """
    torch.manual_seed(seed)
    config = torch_config(family, case, head, **fields)
    model = getattr(transformers, class_name(family, head))(config).eval()
    if "initializer_range" in fields:
        return model
    with torch.no_grad():  # zero biases and unit scales would hide a swapped or missing one
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim == 2:  # some families draw outputs smaller
                parameter.mul_(0.2 / parameter.std())
    return model


def our_class(family, head):
    return getattr(jaxbert, class_name(family, head))


def inputs_for(family, config, length=24, seed=0):
    """Four rows: full, nearly all padding, padding on the left, the padding's id in the text."""
    rng = np.random.default_rng(seed)
    padding = config.pad_token_id
    mask = np.ones((4, length), np.int32)
    mask[1, 2:] = 0
    mask[2, :5] = 0
    ids = rng.integers(0, config.vocab_size, mask.shape).astype(np.int32)
    ids[(ids == padding) | (ids == 1)] = 7
    ids[3, [1, 4, 5]] = padding
    inputs = dict(input_ids=np.where(mask == 1, ids, padding), attention_mask=mask)
    types = getattr(config, "type_vocab_size", 0)
    if types and family != "distilbert":
        inputs["token_type_ids"] = rng.integers(0, types, mask.shape).astype(np.int32)
    return inputs


def for_head(head, inputs):
    """Choices are two rows each."""
    if head != "ForMultipleChoice":
        return inputs
    return {name: value.reshape(2, 2, -1) for name, value in inputs.items()}


def torch_inputs(inputs):
    return {name: torch.tensor(value).long() for name, value in inputs.items()}


def outputs_of(output):
    """{name: array} of a model's output, theirs and ours alike."""
    names = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits")
    found = {name: getattr(output, name, None) for name in names}
    if all(value is None for value in found.values()):
        names = ("last_hidden_state", "pooler_output")
        found = {name: getattr(output, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def is_read(shape, inputs, family, head):
    """Which numbers of an output of that shape are somebody's: [...] bool.

    Of padding nobody reads anything; what it sees is each family's own affair, and so is what a
    classifier reads of a text whose first token is padding, where padding sees other things.
    """
    mask = inputs["attention_mask"].astype(bool)
    if head == "ForMultipleChoice":
        first = mask[..., 0]
    elif len(shape) >= 2 and shape[1] == mask.shape[1]:
        return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - 2)), shape)
    else:
        first = mask[:, 0]
    if family not in ("modernbert", "deberta-v2"):
        first = np.ones_like(first)
    return np.broadcast_to(first.reshape(first.shape + (1,) * (len(shape) - first.ndim)), shape)
