"""Writes tests/golden/*.npz: tiny random BERTs and what PyTorch computes with them.

The files let an environment without PyTorch compare with it. Run after changing what is compared:

    python scripts/make_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
TASKS = ("BertForSequenceClassification", "BertForPreTraining")


def make(task: str) -> dict[str, np.ndarray]:
    """The weights, the inputs and the outputs of one model, the labels' gradient included."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
        num_labels=3,
        initializer_range=0.2,
    )
    config._attn_implementation = "eager"
    config.architectures = [task]
    model = getattr(transformers, task)(config).eval()
    inputs = {
        "input_ids": torch.randint(0, 60, (3, 12)),
        "attention_mask": (torch.arange(12) < torch.tensor([[12], [5], [1]])).long(),
        "token_type_ids": torch.randint(0, 2, (3, 12)),
    }
    output = model(**inputs, output_hidden_states=True)
    logits = [output[k] for k in ("logits", "prediction_logits", "seq_relationship_logits")
              if k in output]  # fmt: skip
    sum((x * torch.cos(torch.arange(x.numel())).reshape(x.shape)).sum() for x in logits).backward()
    arrays = {f"inputs/{k}": v.numpy() for k, v in inputs.items()}
    arrays |= {f"outputs/{i}": v.detach().numpy() for i, v in enumerate(logits)}
    arrays |= {f"hidden/{i}": v.detach().numpy() for i, v in enumerate(output.hidden_states)}
    for name, parameter in model.named_parameters():
        arrays[f"weights/{name}"] = parameter.detach().numpy()
        arrays[f"gradients/{name}"] = parameter.grad.numpy()
    arrays["config"] = np.array(json.dumps(config.to_dict()))
    return arrays


def main() -> None:
    """Writes every file and says how large it is."""
    GOLDEN.mkdir(exist_ok=True)
    for task in TASKS:
        path = GOLDEN / f"{task}.npz"
        np.savez_compressed(path, **make(task))
        print(f"{path.relative_to(GOLDEN.parent.parent)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
