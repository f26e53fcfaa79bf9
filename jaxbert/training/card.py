"""The model card: README.md of a run's directory, what was trained on what and how it scored.

Names of files, labels and models are others' to choose: nothing in them becomes markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxbert.training.config import SETTINGS

_PIPELINES = {
    "text-classification": "text-classification",
    "text-regression": "text-classification",
    "multi-label-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "multiple-choice": "multiple-choice",
    "masked-lm": "fill-mask",
}


def model_card(run: Mapping[str, Any]) -> str:
    """Markdown with the front matter that hubs read.

    Args:
      run: what run.json holds.

    Example:
      >>> run = {"task": "text-classification", "step": 40, "data": {}, "config": {
      ...     "epochs": 2, "batch_size": 32, "max_length": 128, "seed": 0,
      ...     "optimizer": {"learning_rate": 2e-5, "schedule": "linear", "layer_decay": 0.9}}}
      >>> model_card(run).splitlines()[:4]
      ['---', 'library_name: jaxbert', 'pipeline_tag: text-classification', 'tags:']
    """
    return "\n".join([*_front_matter(run), *_body(run)]) + "\n"


def _front_matter(run: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    yield "library_name: jaxbert"
    if run["task"] in _PIPELINES:
        yield f"pipeline_tag: {_PIPELINES[run['task']]}"
    yield from ("tags:", "- jax", "- flax")
    base = run.get("model")
    if isinstance(base, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists():
        yield f"base_model: {json.dumps(base)}"
    yield "---"


def _body(run: Mapping[str, Any]) -> Iterator[str]:
    config, data = run["config"], run["data"]
    optimizer = config["optimizer"]
    yield f"\n# {plain(run['task'])}\n"
    base = f" from {plain(Path(str(run['model'])).name)}" if "model" in run else ""
    yield (
        f"Fine-tuned{base} with jaxbert: {run['step']} updates "
        f"of {config['batch_size']} examples, at most {config['max_length']} tokens each, "
        f"{config['epochs']} epochs, seed {config['seed']}."
    )
    strategy = f"strategy `{plain(run['strategy'])}`, " if "strategy" in run else ""
    yield (
        f"\nLearning rates: {strategy}base {optimizer['learning_rate']:g}, schedule "
        f"{plain(str(optimizer['schedule']))}, times {optimizer['layer_decay']:g} for each layer "
        "towards the input."
    )
    described = {role: about for role, about in data.items() if isinstance(about, Mapping)}
    if described:
        yield from ("\n## Data\n", "| role | source | examples | SHA-256 |", "|---|---|---|---|")
        for role, about in described.items():
            source, digest = plain(about["source"]), about["fingerprint"][:16]
            yield f"| {role} | {source} | {about['examples']} | `{digest}` |"
    yield from _scores(run)
    if "strategy" in run:
        yield (
            f"\n## Again\n\n`jaxbert finetune --config {SETTINGS} --output DIR`, with the data "
            "where that file says."
        )


def _scores(run: Mapping[str, Any]) -> Iterator[str]:
    best = run.get("best") or {}
    scores = dict(run.get("scores") or {})
    if not scores and run.get("evaluations"):
        chosen = [found for found in run["evaluations"] if found["step"] == best.get("step")]
        last = dict((chosen or run["evaluations"])[-1])
        last.pop("step")
        scores = {"evaluation": last}
    if not scores:
        return
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    yield "\n## Scores\n"
    if best.get("score") is not None:
        yield f"The best of the evaluations by {plain(best['metric'])}, at step {best['step']}.\n"
    yield f"| data | {' | '.join(map(plain, names))} |"
    yield "|---" * (len(names) + 1) + "|"
    for name, found in scores.items():
        yield f"| {plain(name)} | {' | '.join(_number(found.get(one)) for one in names)} |"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else plain("" if value is None else value)


def plain(text: Any) -> str:
    """Text that is shown as it is in a line or a cell of Markdown.

    Example:
      >>> plain("<b>a|b</b>")
      '&lt;b&gt;a\\\\|b&lt;/b&gt;'
    """
    one_line = "".join(c if c.isprintable() else " " for c in str(text))
    escaped = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", escaped)
