"""Parameter path -> group of layers, its depth and multiplier; which parameters decay.

A path is the keys from the root to a leaf, joined by "/": `encoder/layers/3/output/bias` in a task
model, `layers/3/output/bias` in an encoder alone. This file sees nothing else of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxbert.errors import InputError

_ENCODER = r"(?:encoder/)?"  # an encoder alone has the same paths without it

# (label, regex over the whole path), from input to output. `{i}` is the number the regex captures.
LABELS: tuple[tuple[str, str], ...] = (
    ("embeddings", _ENCODER + r"embeddings/.+"),
    ("layer_{i}", _ENCODER + r"layers/(?P<i>\d+)/.+"),
    ("final_norm", _ENCODER + r"final_norm/.+"),
    ("pooler", _ENCODER + r"pooler/.+"),
    ("head", r"head/.+"),
)


def path_string(key_path: tuple[Any, ...]) -> str:
    """The path of a leaf, from what `jax.tree_util` gives.

    Args:
      key_path: the keys from the root to the leaf.

    Returns:
      Their names, joined by "/".

    Example:
      >>> leaves, _ = jax.tree_util.tree_flatten_with_path({"layers": [{"bias": 0.0}]})
      >>> path_string(leaves[0][0])
      'layers/0/bias'
    """
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaf_paths(params: Any) -> tuple[str, ...]:
    """The path of every leaf.

    Args:
      params: a tree of arrays or ShapeDtypeStructs.

    Returns:
      Paths in the order of `jax.tree.leaves`.

    Example:
      >>> leaf_paths({"pooler": {"kernel": 1.0, "bias": 0.0}})
      ('pooler/bias', 'pooler/kernel')
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return tuple(path_string(path) for path, _ in leaves)


def path_tree(params: Any, values: Mapping[str, Any], default: Any = None) -> Any:
    """A tree like params that holds the value of each leaf's path.

    Args:
      params: a tree of arrays or ShapeDtypeStructs.
      values: {path: value}.
      default: of the paths that `values` lacks.

    Returns:
      The values, in the structure of `params`.

    Example:
      >>> path_tree({"pooler": {"kernel": 1.0, "bias": 0.0}}, {"pooler/kernel": True}, False)
      {'pooler': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values.get(path_string(path), default), params
    )


def leaf_labels(params: Any) -> dict[str, str]:
    """The label of every leaf of a parameter tree; labels as in `LABELS`.

    Args:
      params: a tree of arrays or ShapeDtypeStructs.

    Returns:
      {path: label}, in the order of `jax.tree.leaves`.

    Raises:
      InputError: leaves that match no label or several, all of them named; layers with a gap.

    Example:
      >>> leaf_labels({"encoder": {"layers": {"0": {"bias": 0.0}}}, "head": {"kernel": 1.0}})
      {'encoder/layers/0/bias': 'layer_0', 'head/kernel': 'head'}
    """
    found = {path: _matching_labels(path) for path in leaf_paths(params)}
    bad = [
        f"{p} ({' and '.join(names) or 'none'})" for p, names in found.items() if len(names) != 1
    ]
    if bad:
        raise InputError(
            "every parameter must match exactly one label of optim.layers.LABELS; these do not: "
            + ", ".join(bad)
        )
    labels = {path: names[0] for path, names in found.items()}
    count_layers(labels.values())
    return labels


def _matching_labels(path: str) -> list[str]:
    matches = [(label, re.fullmatch(regex, path)) for label, regex in LABELS]
    # int(): the file format may write 03 for 3.
    return [
        label.format(i=int(match["i"])) if "{i}" in label else label
        for label, match in matches
        if match
    ]


def count_layers(labels: Iterable[str]) -> int:
    """How many layers there are.

    Args:
      labels: of a model, in any order, each as often as it comes.

    Returns:
      n, with layer_0 ... layer_{n-1} among the labels.

    Raises:
      InputError: a layer is missing below the top one.

    Example:
      >>> count_layers(["embeddings", "layer_1", "layer_0", "head"])
      2
    """
    present = {int(label.removeprefix("layer_")) for label in labels if label.startswith("layer_")}
    missing = sorted(set(range(max(present, default=-1) + 1)) - present)
    if missing:
        raise InputError(
            f"the parameters have layers up to {max(present)} but none for {missing}: layers "
            f"must be numbered from 0 without a gap"
        )
    return len(present)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """The distinct labels from the input to the output, as `LABELS` has them.

    Args:
      labels: of a model, in any order, each as often as it comes.

    Returns:
      Each once: embeddings, layers by number, final norm, pooler, head.

    Example:
      >>> sort_labels(["head", "layer_10", "layer_2", "embeddings", "head"])
      ['embeddings', 'layer_2', 'layer_10', 'head']
    """
    kinds = [label for label, _ in LABELS]

    def place(label: str) -> tuple[int, int]:
        number = re.fullmatch(r"layer_(\d+)", label)
        return (kinds.index("layer_{i}"), int(number[1])) if number else (kinds.index(label), 0)

    return sorted(set(labels), key=place)


@dataclass(frozen=True)
class Convention:
    """How a decay d becomes multipliers: the top layer gets d^top_layer, each below another d.

    What follows the layers (final norm, pooler, head) gets 1 in all of them. So layer i of n gets
    d^(top_layer + n-1-i), and the embeddings, one below layer 0, d^(top_layer + n).

    Attributes:
      top_layer: the exponent of the top layer.
      source: who counts like this, and where that was read.

    Example:
      >>> CONVENTIONS["electra"].top_layer
      2
    """

    top_layer: int
    source: str


CONVENTIONS: dict[str, Convention] = {
    "standard": Convention(
        1,
        "Zhang et al. 2020, 'Revisiting few-sample BERT fine-tuning' (get_optimizer_grouped_"
        "parameters in run_glue.py: pooler and classifier undecayed, then d more for each layer "
        "from the top, the embeddings last); also BEiT and timm",
    ),
    "sun2019": Convention(
        0,
        "Sun et al. 2019, 'How to fine-tune BERT for text classification?', section 3.3: the top "
        "layer has the base rate. The paper is silent on the embeddings; its released code "
        "(run_classifier_discriminative.py) leaves them undecayed, here they follow the rule",
    ),
    "electra": Convention(
        2,
        "Clark et al. 2020, as released (google-research/electra, _get_layer_lrs in model/"
        "optimization.py): depth 0 embeddings, i+1 layer i, n+2 the task's layers. That model has "
        "no pooler (modeling.py takes the first token as it is), so a pooler counts as the task's",
    ),
}


def depth_multipliers(
    labels: Iterable[str], decay: float, convention: str = "standard", head_multiplier: float = 1.0
) -> dict[str, float]:
    """What the peak learning rate is multiplied by, for each label.

    Args:
      labels: those of a model; layer_0 ... layer_{n-1} among them.
      decay: d in (0, 1]; 1 = the same rate everywhere.
      convention: a key of `CONVENTIONS`.
      head_multiplier: of the head; final norm and pooler, which are pre-trained, keep 1.

    Returns:
      {label: multiplier}, from the input to the output.

    Raises:
      InputError: a gap in the layers.

    Example:
      >>> depth_multipliers(["embeddings", "layer_0", "layer_1", "head"], decay=0.5)
      {'embeddings': 0.125, 'layer_0': 0.25, 'layer_1': 0.5, 'head': 1.0}
    """
    labels = sort_labels(labels)
    layers, top = count_layers(labels), CONVENTIONS[convention].top_layer
    multipliers = {
        "embeddings": decay ** (top + layers),
        "final_norm": 1.0,
        "pooler": 1.0,
        "head": head_multiplier,
    } | {f"layer_{i}": decay ** (top + layers - 1 - i) for i in range(layers)}
    return {label: float(multipliers[label]) for label in labels}


def unfreezing_epochs(labels: Iterable[str], pace: float) -> dict[str, float]:
    """When each label starts to train, top first, `pace` epochs from group to group.

    Head, pooler and final norm at 0, the top layer at `pace`, the embeddings last. Reference:
    Howard & Ruder 2018, section 3.3 (pace 1); pace 0 starts everything at once.

    Args:
      labels: those of a model; layer_0 ... layer_{n-1} among them.
      pace: in epochs, at least 0.

    Returns:
      {label: epoch}, from the input to the output.

    Raises:
      InputError: a gap in the layers.

    Example:
      >>> unfreezing_epochs(["embeddings", "layer_0", "layer_1", "head"], pace=0.5)
      {'embeddings': 1.5, 'layer_0': 1.0, 'layer_1': 0.5, 'head': 0.0}
    """
    labels = sort_labels(labels)
    layers = count_layers(labels)
    turns = {"embeddings": layers + 1, "final_norm": 0, "pooler": 0, "head": 0}
    turns |= {f"layer_{i}": layers - i for i in range(layers)}
    return {label: float(pace * turns[label]) for label in labels}


def matches(pattern: str, path: str, label: str) -> bool:
    """Whether a pattern means a leaf: a regex for the whole label or the whole path.

    Args:
      pattern: the regex.
      path: of the leaf.
      label: of the leaf.

    Returns:
      Whether it matches one of them from end to end.

    Example:
      The whole, so that `layer_1` is not layer_10, and `.*/layers/1/.*` not layer 10 either:

      >>> matches("layer_1", "layers/1/output/bias", "layer_1")
      True
      >>> matches("layer_1", "layers/10/output/bias", "layer_10")
      False
    """
    return bool(re.fullmatch(pattern, label) or re.fullmatch(pattern, path))


def first_matches(
    argument: str, patterns: Sequence[str], labels: Mapping[str, str]
) -> dict[str, int]:
    """Which pattern decides each leaf: the first that means it.

    Args:
      argument: what the patterns are called in an error.
      patterns: see `matches`.
      labels: of `leaf_labels`.

    Returns:
      {path: index of the pattern}; leaves that no pattern means are left out.

    Raises:
      InputError: patterns that get no leaf, because none matches or earlier ones took them all.

    Example:
      >>> labels = {"pooler/bias": "pooler", "pooler/kernel": "pooler", "head/kernel": "head"}
      >>> first_matches("multipliers", [".*/bias", "pooler"], labels)
      {'pooler/bias': 0, 'pooler/kernel': 1}
    """
    taken = {}
    for path, label in labels.items():
        hits = (i for i, pattern in enumerate(patterns) if matches(pattern, path, label))
        if (index := next(hits, None)) is not None:
            taken[path] = index
    idle = [repr(p) for i, p in enumerate(patterns) if i not in taken.values()]
    if idle:
        raise InputError(
            f"{argument}: nothing matches {', '.join(idle)}, or only what an earlier row took; a "
            f"pattern must match a whole label ({', '.join(sort_labels(labels.values()))}) or a "
            f"whole path, for instance {next(iter(labels))!r}"
        )
    return taken


def decays_weight(path: str) -> bool:
    """Whether weight decay applies: not to biases and LayerNorm.

    Reference: exclude_from_weight_decay in google-research/bert optimization.py. Our LayerNorms'
    leaves are `scale` and `bias`, and nothing else has a `scale`.

    Args:
      path: of a leaf.

    Returns:
      Whether the leaf decays.

    Example:
      >>> [decays_weight(f"layers/0/output_norm/{leaf}") for leaf in ("scale", "bias")]
      [False, False]
      >>> decays_weight("layers/0/output/kernel")
      True
    """
    return path.rpartition("/")[2] not in ("bias", "scale")


def reinitialized_paths(params: Any, layers: int) -> tuple[str, ...]:
    """The parameters to draw afresh before fine-tuning: the top `layers` layers and what follows.

    What follows them in the encoder is pooler and final norm. The final norm, because it does for a
    pre-norm network what the top layer's `output_norm`, drawn afresh with its layer, does
    elsewhere: it is fitted to what the old top layers put out. The head is new in any case.

    Whoever trains sets them to the model's own initial values; 0 layers means none, also not the
    pooler. Reference: Zhang et al. 2020, section 4 (their --reinit_layers wants --reinit_pooler).

    Args:
      params: a tree of arrays or ShapeDtypeStructs.
      layers: how many, from the top; at least 0.

    Returns:
      Paths, in the order of `jax.tree.leaves`.

    Raises:
      InputError: more layers than the model has; what `leaf_labels` refuses.

    Example:
      >>> params = {"layers": {"0": {"bias": 0.0}, "1": {"bias": 0.0}}, "pooler": {"bias": 0.0}}
      >>> reinitialized_paths(params, 1)
      ('layers/1/bias', 'pooler/bias')
    """
    labels = leaf_labels(params)
    count = count_layers(labels.values())
    if layers > count:
        raise InputError(f"reinitialize_layers={layers}, but the model has {count} layers")
    top = {f"layer_{i}" for i in range(count - layers, count)} | {"final_norm", "pooler"}
    return tuple(path for path, label in labels.items() if layers and label in top)
