"""How far every model is from `transformers` in PyTorch on the same weights, in float32.

    python -m benchmarks.parity      # prints, and adds a line a model to results/parity.jsonl

Random models (3 layers, 48 wide, spread-out weights) on three rows of which two are mostly padding,
and the demo model on 32 sentences of its test set. The limits are in tests/parity.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

import jaxbert.models as models
from benchmarks.results import append_result, environment
from jaxbert.data import load_demo
from jaxbert.models import merge_model, split_model
from jaxbert.tasks import load_examples

TASKS = (
    "BertModel", "BertForSequenceClassification", "BertForMaskedLM", "BertForTokenClassification",
    "BertForQuestionAnswering", "BertForMultipleChoice", "BertForNextSentencePrediction",
    "BertForPreTraining",
)  # fmt: skip
Arrays = list[Any]


def of_torch(output: Any) -> Arrays:
    """What a model computes, in jaxbert's order."""
    names = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits")
    found = [output[name] for name in names if name in output]
    return found or [output.last_hidden_state, output.pooler_output]


def of_jax(output: Any) -> Arrays:
    """The same of ours."""
    if isinstance(output, models.EncoderOutput):
        return [output.last_hidden_state, output.pooler_output]
    return list(output) if isinstance(output, tuple) else [output]


def farthest(ours: Arrays, theirs: Arrays) -> float:
    """The largest absolute difference."""
    return max(
        float(np.abs(np.asarray(a) - b.detach().numpy()).max())
        for a, b in zip(ours, theirs, strict=True)
    )


def random_case(task: str, directory: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """A random PyTorch model, saved in the directory, and inputs for it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=64, initializer_range=0.1,
        attn_implementation="eager",
    )  # fmt: skip
    reference = getattr(transformers, task)(config).eval()
    reference.save_pretrained(directory)
    rng = np.random.default_rng(0)
    shape = (3, 2, 24) if task == "BertForMultipleChoice" else (3, 24)
    mask = np.arange(24) < np.array([24, 5, 1]).reshape(3, *[1] * (len(shape) - 1))
    mask = np.broadcast_to(mask, shape).astype(np.int32)
    return reference, {
        "input_ids": rng.integers(1, 200, shape).astype(np.int32) * mask,
        "attention_mask": mask.copy(),
        "token_type_ids": rng.integers(0, 2, shape).astype(np.int32),
    }


def gradient_distance(reference: Any, ours: Any, inputs: dict[str, Any], directory: Path) -> float:
    """Of each leaf the largest difference over the largest entry; of all leaves the largest.

    Attention's key biases are left out: their gradient is zero but for rounding.
    """
    sum(x.square().mean() for x in of_torch(reference(**_tensors(inputs)))).backward()
    for parameter in reference.parameters():
        grad = parameter.grad
        parameter.data = torch.zeros_like(parameter) if grad is None else grad
    reference.save_pretrained(directory)
    wanted = split_model(type(ours).from_pretrained(directory))[1]
    graphdef, params = split_model(ours)

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> Any:
        outputs = of_jax(merge_model(graphdef, params)(**inputs))
        return sum(jnp.square(x).mean() for x in outputs)

    distances = [0.0]
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(gradient(params)), jax.tree.leaves(wanted), strict=True
    )
    for (path, got), want in pairs:
        largest = float(np.abs(want).max())
        if largest and "key/bias" not in jax.tree_util.keystr(path, simple=True, separator="/"):
            distances.append(float(np.abs(got - want).max()) / largest)
    return max(distances)


def _tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value).long() for name, value in inputs.items()}


def measure_random(task: str) -> dict[str, Any]:
    """Outputs and gradients of one random model."""
    with tempfile.TemporaryDirectory() as work:
        reference, inputs = random_case(task, Path(work) / "model")
        ours = getattr(models, task).from_pretrained(Path(work) / "model")
        outputs = farthest(of_jax(ours(**inputs)), of_torch(reference(**_tensors(inputs))))
        gradients = gradient_distance(reference, ours, inputs, Path(work) / "gradients")
    return {"model": task, "outputs": outputs, "gradients": gradients}


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
    return {"model": "demo model, hidden states", "outputs": distance, "gradients": None}


def main() -> None:
    """Measures, prints and keeps every row."""
    shared = {"command": "python -m benchmarks.parity", **environment()}
    for row in [*map(measure_random, TASKS), measure_demo()]:
        gradients = "" if row["gradients"] is None else f"{row['gradients']:.1e}"
        print(f"{row['model']:32} outputs {row['outputs']:.1e}  gradients {gradients}")
        append_result("parity", row | shared)


if __name__ == "__main__":
    main()
