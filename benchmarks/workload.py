"""What is measured: the workloads by name, and the files from which every side gets the same work.

    python -m benchmarks.workload WORKLOAD_AS_JSON DIRECTORY

writes model/ (a Hugging Face directory), examples.npz (token ids and labels) and optimizer.json.
Only this command imports jaxbert, so a side of another package needs those three and no more.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOTAL_STEPS = 1000  # of the learning-rate schedule, longer than any measurement
REVIEWS = 1024  # sentences of a pass, unless the command asks for others
# Relative difference of the losses of one batch, by dtype, up to which the sides agree.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A piece of work; a timed round is one pass over its examples.

    Attributes:
      name: of the workload, as on the command line.
      kind: "train" (forward, backward, clip, AdamW) or "infer" (logits).
      preset: of the model's shape, see `AutoConfig.preset`; the weights are random.
      batch: examples in a step.
      length: tokens of an example; for reviews the most there may be.
      dtype: "float32", or "bfloat16" for the products (PyTorch: autocast); parameters are float32.
      examples: how many make a pass.
      source: of the examples: random tokens, "full" or "ragged" in length, or the sentences of
        the demo's "reviews".
      layout: of jaxbert's rows, see `data.Batches`.
      padding: of the other sides' rows: "padded" to length, or "grouped": batches of like lengths,
        padded to their own.
      dropout: rate at every site that the family has, whatever it is published with.
      shape: (field, value) rows that replace fields of the preset.
      seed: of weights, tokens, labels and order.
    """

    name: str
    kind: str
    preset: str
    batch: int
    length: int
    dtype: str
    examples: int
    source: str = "full"
    layout: str = "padded"
    padding: str = "padded"
    dropout: float = 0.1
    shape: tuple[tuple[str, int], ...] = ()
    seed: int = 0

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Workload:
        """The inverse of `dataclasses.asdict`, also after JSON."""
        return cls(**fields | {"shape": tuple((name, size) for name, size in fields["shape"])})

    @property
    def is_ragged(self) -> bool:
        """Whether examples differ in length, and so need a mask where they are padded."""
        return self.source != "full"


DEMO, BASE = "minilm-l6-h384", "bert-base-uncased"
TINY = (
    ("vocab_size", 200), ("hidden_size", 32), ("num_hidden_layers", 2),
    ("num_attention_heads", 2), ("intermediate_size", 64), ("max_position_embeddings", 16),
)  # fmt: skip


def _both(name: str, steps: int = 0, **fields: Any) -> list[Workload]:
    """A workload in both precisions, of so many steps."""
    fields = {"kind": "train", "preset": DEMO, "length": 128} | fields
    fields = {"examples": steps * fields["batch"]} | fields
    return [Workload(name=f"{name}-{dtype}", dtype=dtype, **fields) for dtype in TOLERANCE]


_REVIEWS = dict(batch=32, examples=REVIEWS, source="reviews", layout="packed")
# Enough steps that the first, after the other sides had the caches, is not half of a round.
QUICK = [
    *_both("demo-train", 6, batch=32),
    *_both("demo-infer", 8, kind="infer", batch=32),
]
FULL = [
    *QUICK,
    *_both("base-8x128-train", 1, preset=BASE, batch=8),
    *_both("base-4x512-train", 1, preset=BASE, batch=4, length=512),
    *_both("reviews", **_REVIEWS, padding="grouped"),
    *_both("reviews-padded", **_REVIEWS, padding="padded"),
]
TOKENS = 4096  # of a step, at every length
# The base-size model of every other family, and the preset of its shape.
FAMILIES_OF = {
    "roberta-base": "roberta-base",
    "distilbert-base": "distilbert-base-uncased",
    "electra-base": "electra-base-discriminator",
    "modernbert-base": "modernbert-base",
    "deberta-v3-base": "deberta-v3-base",
    "mpnet-base": "mpnet-base",
    "albert-base": "albert-base-v2",
}
FAMILIES = [
    work
    for name, preset in FAMILIES_OF.items()
    for kind, steps in (("train", 1), ("infer", 2))
    for work in _both(f"{name}-{kind}", steps, kind=kind, preset=preset, batch=8)
]
# What fills an accelerator.
ACCELERATOR = [
    work
    for name, preset, batch, length in (
        ("base-64x128", BASE, 64, 128),
        ("base-16x512", BASE, 16, 512),
        ("large-16x512", "bert-large-uncased", 16, 512),
    )
    for work in _both(f"{name}-train", 8, preset=preset, batch=batch, length=length)
]
LENGTHS = [
    work
    for length in (32, 64, 128, 256, 512)
    for work in _both(f"length-{length}", 1, batch=TOKENS // length, length=length)
]
# To try the harness out; its times say nothing.
SMOKE = [
    *_both("smoke-train", 2, batch=4, length=16, shape=TINY),
    *_both("smoke-infer", 2, kind="infer", batch=4, length=16, shape=TINY),
    *_both(
        "smoke-ragged",
        6,
        batch=4,
        length=16,
        shape=TINY,
        source="ragged",
        layout="packed",
        padding="grouped",
    ),
]
WORKLOADS = {
    workload.name: workload for workload in [*FULL, *FAMILIES, *ACCELERATOR, *LENGTHS, *SMOKE]
}


class Data(NamedTuple):
    """N examples of T tokens in all.

    input_ids: [T] int32. offsets: [N + 1] int64; example i is input_ids[offsets[i]:offsets[i + 1]].
    labels: [N] int32.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def first(self, count: int) -> Data:
        """The first `count` examples."""
        offsets = self.offsets[: count + 1]
        return Data(self.input_ids[: offsets[-1]], offsets, self.labels[:count])


def read_data(directory: Path) -> Data:
    """What `prepare` wrote to examples.npz."""
    with np.load(directory / "examples.npz") as arrays:
        return Data(**arrays)


def prepare(workload: Workload, directory: Path) -> None:
    """Writes the initial weights, the examples and the optimizer's settings that all sides read."""
    from flax import nnx

    from jaxbert.models import AutoConfig
    from jaxbert.optim.strategies import DEFAULT_STRATEGY, get_strategy
    from jaxbert.tasks import TEXT_CLASSIFICATION, task_class

    fields = dataclasses.fields(AutoConfig.preset(workload.preset))
    config = AutoConfig.preset(
        workload.preset,
        **{field.name: workload.dropout for field in fields if "dropout" in field.name},
        problem_type="single_label_classification",
        # Wider than BERT's .02, so that the loss depends visibly on every layer and token.
        initializer_range=0.05,
        **dict(workload.shape),
    )
    build = task_class(TEXT_CLASSIFICATION, config.model_type)
    model = build(config, rngs=nnx.Rngs(workload.seed))
    model.save_pretrained(directory / "model")
    np.savez(directory / "examples.npz", **_examples(workload, config.vocab_size)._asdict())
    settings = dataclasses.asdict(get_strategy(DEFAULT_STRATEGY).config())
    (directory / "optimizer.json").write_text(json.dumps(settings), encoding="utf-8")


def _examples(workload: Workload, vocabulary: int) -> Data:
    count = workload.examples
    if workload.source == "reviews":
        return _reviews(count, workload)
    rng = np.random.default_rng(workload.seed)
    least = 2 if workload.is_ragged else workload.length
    lengths = rng.integers(least, workload.length + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1, vocabulary, offsets[-1])  # 0 is padding
    return Data(ids.astype(np.int32), offsets, rng.integers(0, 2, count).astype(np.int32))


def _reviews(count: int, workload: Workload) -> Data:
    """So many of the demo's film sentences, of all splits, drawn from the whole (it is sorted)."""
    from jaxbert.data import load_demo, load_tokenizer, tokenize
    from jaxbert.tasks import load_examples

    demo = load_demo()
    splits = [load_examples(s, label_column="label") for s in (demo.train, demo.dev, demo.test)]
    texts = [text for split in splits for text in split.texts]
    labels = np.concatenate([split.labels for split in splits])
    if count > len(texts):
        raise ValueError(f"examples={count}: the demo has {len(texts)} sentences")
    chosen = np.random.default_rng(workload.seed).permutation(len(texts))[:count]
    examples = dataclasses.replace(
        splits[0], texts=tuple(texts[i] for i in chosen), labels=labels[chosen]
    )
    found = tokenize(examples, load_tokenizer(demo.model), workload.length)
    return Data(found.input_ids, found.offsets, found.labels)


if __name__ == "__main__":
    prepare(Workload.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))
