"""How far every model is from `transformers` in PyTorch on the same weights, in float32.

    python -m benchmarks.parity      # prints, and adds a line a model to results/parity.jsonl
    python -m benchmarks.parity --only ForSequenceClassification --results DIR

Random models of every family (3 layers, 48 wide, spread-out weights) on three rows of which two are
mostly padding, and the demo model on 32 sentences of its test set; at tokens, for nobody reads what
is computed of padding. The limits are in tests/parity.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

import jaxbert.models as models
from benchmarks.results import RESULTS, append_result, environment
from jaxbert.data import load_demo
from jaxbert.models import merge_model, split_model
from jaxbert.models.auto import FAMILIES, HEADS, config_class, model_class
from jaxbert.tasks import load_examples

ROWS, LENGTH = 3, 24
PROMISED = {"outputs": 1e-5, "gradients": 1e-4}
DEMO = "demo model, hidden states"
Arrays = list[Any]


def outputs_of(output: Any, tokens: Any) -> Arrays:
    """What a model computes, theirs and ours alike; where it is of tokens, 0 for padding."""
    names = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits")
    found = [getattr(output, name, None) for name in names]
    if all(x is None for x in found):
        found = [output.last_hidden_state, getattr(output, "pooler_output", None)]
    return [
        x * tokens.reshape(ROWS, LENGTH, *[1] * (x.ndim - 2)) if x.shape[:2] == tokens.shape else x
        for x in found
        if x is not None
    ]


def farthest(ours: Arrays, theirs: Arrays) -> float:
    """The largest absolute difference."""
    return max(
        float(np.abs(np.asarray(a) - b.detach().numpy()).max())
        for a, b in zip(ours, theirs, strict=True)
    )


def random_case(family: str, head: str, directory: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A random PyTorch model, saved in the directory, and inputs for it."""
    torch.manual_seed(0)
    config = config_class(family)(
        vocab_size=200, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=64, initializer_range=0.1, pad_token_id=1,
    )  # fmt: skip
    prefix = FAMILIES[family].prefix
    theirs = getattr(transformers, f"{prefix}Config")(**config.to_hf(), attn_implementation="eager")
    reference = getattr(transformers, f"{prefix}{head}")(theirs).eval()
    reference.save_pretrained(directory)
    rng = np.random.default_rng(0)
    shape = (ROWS, 2, LENGTH) if head == "ForMultipleChoice" else (ROWS, LENGTH)
    mask = np.arange(LENGTH) < np.array([LENGTH, 5, 1]).reshape(ROWS, *[1] * (len(shape) - 1))
    mask = np.broadcast_to(mask, shape).astype(np.int32)
    inputs = {
        "input_ids": np.where(mask, rng.integers(2, 200, shape), 1).astype(np.int32),
        "attention_mask": mask.copy(),
    }
    if config.type_vocab_size:
        types = rng.integers(0, config.type_vocab_size, shape)
        inputs["token_type_ids"] = types.astype(np.int32)
    return reference, inputs


def gradient_distance(reference: Any, ours: Any, inputs: dict[str, Any], directory: Path) -> float:
    """Of each leaf the largest difference over the largest entry; of all leaves the largest.

    Attention's key biases are left out: their gradient is zero but for rounding.
    """
    mask = inputs["attention_mask"]
    theirs = outputs_of(reference(**_tensors(inputs)), torch.tensor(mask))
    sum((x * torch.tensor(_weights(x))).sum() for x in theirs).backward()
    for parameter in reference.parameters():
        grad = parameter.grad
        parameter.data = torch.zeros_like(parameter) if grad is None else grad
    reference.save_pretrained(directory)
    wanted = split_model(type(ours).from_pretrained(directory))[1]
    graphdef, params = split_model(ours)

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> Any:
        outputs = outputs_of(merge_model(graphdef, params)(**inputs), jnp.asarray(mask))
        return sum((x * _weights(x)).sum() for x in outputs)

    distances = [0.0]
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(gradient(params)), jax.tree.leaves(wanted), strict=True
    )
    for (path, got), want in pairs:
        largest = float(np.abs(want).max())
        if largest and "key/bias" not in jax.tree_util.keystr(path, simple=True, separator="/"):
            distances.append(float(np.abs(got - want).max()) / largest)
    return max(distances)


def _weights(x: Any) -> np.ndarray:
    """One for each number: the mean square of what a LayerNorm puts out has no gradient."""
    return np.cos(np.arange(np.prod(x.shape), dtype=np.float32)).reshape(x.shape)


def _tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value).long() for name, value in inputs.items()}


def measure_random(family: str, head: str) -> dict[str, Any]:
    """Outputs and gradients of one random model."""
    with tempfile.TemporaryDirectory() as work:
        reference, inputs = random_case(family, head, Path(work) / "model")
        ours = model_class(family, head).from_pretrained(Path(work) / "model")
        mask = inputs["attention_mask"]
        outputs = farthest(
            outputs_of(ours(**inputs), mask),
            outputs_of(reference(**_tensors(inputs)), torch.tensor(mask)),
        )
        gradients = gradient_distance(reference, ours, inputs, Path(work) / "gradients")
    return {"model": type(ours).__name__, "outputs": outputs, "gradients": gradients}


def measure_demo() -> dict[str, Any]:
    """Hidden states of the demo model on real sentences, at their tokens."""
    demo = load_demo()
    texts = load_examples(demo.test, text_column="text").texts[:32]
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.model)
    inputs = dict(tokenizer(list(texts), padding=True, return_tensors="np"))
    tokens = inputs["attention_mask"][..., None]
    reference = transformers.BertModel.from_pretrained(demo.model, attn_implementation="eager")
    with torch.no_grad():
        theirs = reference.eval()(**_tensors(inputs), output_hidden_states=True).hidden_states
    ours = models.BertModel.from_pretrained(demo.model)(**inputs).hidden_states
    distance = farthest(
        [tokens * np.asarray(x) for x in ours], [torch.tensor(tokens) * x for x in theirs]
    )
    return {"model": DEMO, "outputs": distance, "gradients": None}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name contains it")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def main() -> int:
    """Measures, prints and keeps every row; status 1 where one is too far off."""
    args = parser().parse_args()
    command = shlex.join(["python", "-m", "benchmarks.parity", *sys.argv[1:]])
    shared = {"command": command, "platform": jax.default_backend(), **environment()}
    fine = True
    for row in _rows(args.only):
        gradients = "" if row["gradients"] is None else f"{row['gradients']:.1e}"
        print(f"{row['model']:32} outputs {row['outputs']:.1e}  gradients {gradients}", flush=True)
        # Said so that NaN does not pass.
        fine &= all((row[what] or 0.0) <= most for what, most in PROMISED.items())
        append_result("parity", row | shared, args.results)
    return int(not fine)


def _rows(only: str) -> Iterator[dict[str, Any]]:
    for family, row in FAMILIES.items():
        for head in (*HEADS, *row.further):
            if only in f"{row.prefix}{head}":
                yield measure_random(family, head)
    if only in DEMO:
        yield measure_demo()


if __name__ == "__main__":
    raise SystemExit(main())
