"""Parameter path -> group of layers, its depth and multiplier; which parameters decay.

A path is the keys from the root to a leaf, joined by "/": `bert/encoder/layers/3/output/bias`. This
file sees nothing else of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

# (label, regex over the whole path). `{i}` is the number the regex captures.
LABELS: tuple[tuple[str, str], ...] = (
    ("embeddings", r"(?:bert/)?embeddings/.+"),
    ("layer_{i}", r"(?:bert/)?encoder/layers/(?P<i>\d+)/.+"),
    ("pooler", r"(?:bert/)?pooler/.+"),
    ("head", r"(?:classifier|qa_outputs|seq_relationship|predictions)/.+"),
)


def path_string(key_path: tuple[Any, ...]) -> str:
    """The path of a leaf, from what `jax.tree_util` gives."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaf_paths(params: Any) -> tuple[str, ...]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return tuple(path_string(path) for path, _ in leaves)


def path_tree(params: Any, values: Mapping[str, Any], default: Any = None) -> Any:
    """A tree like params that holds the value of each leaf's path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values.get(path_string(path), default), params
    )


def leaf_labels(params: Any) -> dict[str, str]:
    """{path: label} for every leaf of a parameter tree; labels as in `LABELS`.

    Raises:
      ValueError: leaves that match no label or several, all of them named; layers with a gap.
    """
    found = {path: _matching_labels(path) for path in leaf_paths(params)}
    bad = [
        f"{p} ({' and '.join(names) or 'none'})" for p, names in found.items() if len(names) != 1
    ]
    if bad:
        raise ValueError(
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
    """n, from labels among which are layer_0 ... layer_{n-1}.

    Raises:
      ValueError: a layer is missing below the top one.
    """
    present = {int(label.removeprefix("layer_")) for label in labels if label.startswith("layer_")}
    missing = sorted(set(range(max(present, default=-1) + 1)) - present)
    if missing:
        raise ValueError(
            f"the parameters have layers up to {max(present)} but none for {missing}: layers "
            f"must be numbered from 0 without a gap"
        )
    return len(present)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """The distinct labels from the input to the output: embeddings, layers, pooler, head."""
    kinds = [label.partition("_{i}")[0] for label, _ in LABELS]

    def place(label: str) -> tuple[int, int]:
        kind, _, number = label.partition("_")
        return kinds.index(kind), int(number or 0)

    return sorted(set(labels), key=place)


@dataclass(frozen=True)
class Convention:
    """How a decay d becomes multipliers: the top layer gets d^top_layer, each below another d.

    The head and the pooler get 1 in all of them. So layer i of n gets d^(top_layer + n-1-i), and
    the embeddings, one below layer 0, d^(top_layer + n).
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
    """{label: multiplier of the peak learning rate}, from the input to the output.

    Args:
      labels: those of a model; layer_0 ... layer_{n-1} among them.
      decay: d in (0, 1]; 1 = the same rate everywhere.
      convention: a key of `CONVENTIONS`.
      head_multiplier: of the head; the pooler, which is pre-trained, keeps 1.
    """
    labels = sort_labels(labels)
    layers, top = count_layers(labels), CONVENTIONS[convention].top_layer
    multipliers = {
        "embeddings": decay ** (top + layers),
        "pooler": 1.0,
        "head": head_multiplier,
    } | {f"layer_{i}": decay ** (top + layers - 1 - i) for i in range(layers)}
    return {label: float(multipliers[label]) for label in labels}


def unfreezing_epochs(labels: Iterable[str], pace: float) -> dict[str, float]:
    """{label: epoch at which it starts to move}, top first, `pace` epochs from group to group.

    Head and pooler at 0, the top layer at `pace`, the embeddings last. Reference: Howard & Ruder
    2018, section 3.3 (pace 1); pace 0 starts everything at once.
    """
    labels = sort_labels(labels)
    layers = count_layers(labels)
    steps = {"embeddings": layers + 1, "pooler": 0, "head": 0}
    steps |= {f"layer_{i}": layers - i for i in range(layers)}
    return {label: float(pace * steps[label]) for label in labels}


def matches(pattern: str, path: str, label: str) -> bool:
    """Whether a pattern means a leaf: a regex for the whole label or the whole path.

    The whole, so that `layer_1` is not layer_10, and `.*/layers/1/.*` not layer 10 either.
    """
    return bool(re.fullmatch(pattern, label) or re.fullmatch(pattern, path))


def first_matches(
    argument: str, patterns: Sequence[str], labels: Mapping[str, str]
) -> dict[str, int]:
    """{path: index of the first pattern that means it}; leaves that none means are left out.

    Args:
      argument: what the patterns are called in an error.
      patterns: see `matches`.
      labels: of `leaf_labels`.

    Raises:
      ValueError: patterns that get no leaf, because none matches or earlier ones took them all.
    """
    taken = {}
    for path, label in labels.items():
        hits = (i for i, pattern in enumerate(patterns) if matches(pattern, path, label))
        if (index := next(hits, None)) is not None:
            taken[path] = index
    idle = [repr(p) for i, p in enumerate(patterns) if i not in taken.values()]
    if idle:
        raise ValueError(
            f"{argument}: nothing matches {', '.join(idle)}, or only what an earlier row took; a "
            f"pattern must match a whole label ({', '.join(sort_labels(labels.values()))}) or a "
            f"whole path, for instance {next(iter(labels))!r}"
        )
    return taken


def decays_weight(path: str) -> bool:
    """Whether weight decay applies: not to biases and LayerNorm.

    Reference: exclude_from_weight_decay in google-research/bert optimization.py. Our LayerNorms'
    leaves are `scale` and `bias`, and nothing else has a `scale`.
    """
    return path.rpartition("/")[2] not in ("bias", "scale")


def reinitialised_paths(params: Any, layers: int) -> tuple[str, ...]:
    """The parameters to draw afresh before fine-tuning: the pooler and the top `layers` layers.

    Whoever trains sets them to the model's own initial values; 0 layers means none, also not the
    pooler. The head is new in any case. Reference: Zhang et al. 2020, section 4 (their
    --reinit_layers wants --reinit_pooler).

    Raises:
      ValueError: more layers than the model has.
    """
    labels = leaf_labels(params)
    count = count_layers(labels.values())
    if layers > count:
        raise ValueError(f"reinitialise_layers={layers}, but the model has {count} layers")
    top = {f"layer_{i}" for i in range(count - layers, count)} | {"pooler"}
    return tuple(path for path, label in labels.items() if layers and label in top)
