"""What may stand in a configuration: its numbers, choices and labels. Imports no jax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxbert.errors import InputError
from jaxbert.settings import is_count, is_number

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
NORMS = ("post", "pre")
FEED_FORWARDS = ("dense", "gated")
# Hugging Face's words for what a classifier is for. Which of them can be trained is the tasks' to
# say; a checkpoint marked with any of them has an encoder that can be read.
PROBLEM_TYPES = (
    None,
    "single_label_classification",
    "multi_label_classification",
    "regression",
)


def labels_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`num_labels` and `id2label`; names that Hugging Face made up (LABEL_0 ...) are no names."""
    id2label = hf.get("id2label")
    if not id2label:
        return {"num_labels": hf["num_labels"]} if "num_labels" in hf else {}
    try:
        by_index = {int(index): str(label) for index, label in id2label.items()}
    except (AttributeError, TypeError, ValueError):  # no mapping, or of something else
        by_index = {}
    if not by_index or sorted(by_index) != list(range(len(id2label))):
        raise InputError(
            f'config.json: id2label must number its labels from 0, as in {{"0": "no"}}, got '
            f"{id2label!r}: mend it there"
        )
    labels = tuple(by_index[i] for i in range(len(by_index)))
    generic = labels == tuple(f"LABEL_{i}" for i in range(len(labels)))
    return {"num_labels": len(labels), "id2label": None if generic else labels}


def thresholds_from_hf(hf: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Of `task_specific_params`; InputError where they are no numbers by name."""
    found = _of_task(hf, "thresholds")
    if not (isinstance(found, Mapping) and all(map(is_number, found.values()))):
        raise InputError(f"config.json: thresholds must be numbers by name, got {found!r}")
    return tuple((str(name), float(value)) for name, value in found.items())


def settings_from_hf(hf: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Of `task_specific_params`; InputError where they are no plain values by name."""
    found = _of_task(hf, "settings")
    plain = (bool, int, float, str)
    if not (isinstance(found, Mapping) and all(isinstance(v, plain) for v in found.values())):
        raise InputError(f"config.json: settings must be plain values by name, got {found!r}")
    return tuple((str(name), value) for name, value in found.items())


def _of_task(hf: Mapping[str, Any], name: str) -> Any:
    params = hf.get("task_specific_params")
    return params.get(name, {}) if isinstance(params, Mapping) else {}


COUNT = (is_count, "a whole number of at least 1")
COMPUTED_WITH = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), COUNT)

# field: the least that it can be, in a family that has it
_SIZES = {
    "vocab_size": 1,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "max_position_embeddings": 1,
    "type_vocab_size": 0,
    "embedding_size": 1,
    "num_hidden_groups": 1,
    "num_labels": 1,
}


def size_problems(config: Any) -> list[str]:
    """What is wrong with a configuration's numbers, a line for each."""
    problems = [
        f"{name} must be a whole number of at least {least}, got {value!r}"
        for name, least in _SIZES.items()
        if not is_count(value := getattr(config, name, least), least)
    ]
    if not problems and config.hidden_size % config.num_attention_heads:
        problems.append(
            f"hidden_size={config.hidden_size} must be a multiple of "
            f"num_attention_heads={config.num_attention_heads}"
        )
    if config.id2label is not None and len(config.id2label) != config.num_labels:
        problems.append(f"id2label has {len(config.id2label)} names for {config.num_labels=}")
    pad = config.pad_token_id
    if not problems and pad is not None and pad not in range(config.vocab_size):
        problems.append(f"pad_token_id must be a token of the vocabulary, got {pad!r}")
    # A prediction says one probability for each name.
    equal = sorted(name for name, n in Counter(config.id2label or ()).items() if n > 1)
    if equal:
        problems.append(f"id2label must have different names, got {', '.join(equal)} twice or more")
    return problems


def choice_problems(config: Any) -> list[str]:
    """What is wrong with its rates and with what it chooses among."""
    problems = [
        f"{name} must be in [0, 1), got {rate!r}"
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        if (rate := getattr(config, name)) is not None and not (is_number(rate) and 0 <= rate < 1)
    ]
    choices = {
        "hidden_act": ACTIVATIONS,
        "problem_type": PROBLEM_TYPES,
        "norm": NORMS,
        "feed_forward": FEED_FORWARDS,
    }
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            problems.append(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}")
    if not (is_number(config.layer_norm_eps) and config.layer_norm_eps > 0):
        problems.append(f"layer_norm_eps must be positive, got {config.layer_norm_eps!r}")
    if not (is_number(config.initializer_range) and config.initializer_range >= 0):
        problems.append(f"initializer_range must be 0 or more, got {config.initializer_range!r}")
    return problems
