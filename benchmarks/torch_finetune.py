"""PyTorch fine-tunes the demo model on the demo data with the hyper-parameters of a jaxbert run.

The yardstick of the demo's accuracy. It shares with jaxbert the files, the split, the
allocator's settings and the hyper-parameters, read from the run's own run.json, and nothing else:
tokenizer calls, padding, parameter groups, schedule and loop are written here, on `transformers`
and `torch` alone.

    jaxbert demo --output runs/demo
    python -m benchmarks.torch_finetune runs/demo --seed 0
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.results import (
    append_result,
    environment,
    peak_memory_bytes,
    restart_with_allocator,
)
from jaxbert.cpu import cores
from jaxbert.data.demo import Demo, load_demo

NAME = "torch_finetune"
LABELS = ("negative", "positive")
EVAL_BATCH = 64
# A layer's number in a parameter's name, and what lies below all layers, in every family.
_LAYER = re.compile(r"\.(?:layer|layers|albert_layer_groups)\.(\d+)\.")
_BELOW = re.compile(
    r"\.(?:embeddings|embeddings_project|embedding_hidden_mapping_in|rel_embeddings"
    r"|relative_attention_bias)\.|\.encoder\.LayerNorm\."
)

# Settings of run.json: those done here as there,
USED = {
    "epochs", "batch_size", "max_length", "learning_rate", "warmup", "layer_decay",
    "head_multiplier", "weight_decay", "clip_norm", "beta1", "beta2", "epsilon",
}  # fmt: skip
# those that change how a run is computed or logged and not what it learns (the seed is ours),
WITHOUT_EFFECT = {
    "eval_batch_size", "layout", "accumulation", "checkpoint_every", "keep_checkpoints",
    "log_every", "seed", "compute.gradient_checkpointing",
    "compute.scan_layers", "compute.attention",
}  # fmt: skip
# and those that have to have one of these values. Whatever else there is, is refused.
FIXED: dict[str, tuple[Any, ...]] = {
    "optimizer": ("adamw",),
    "schedule": ("linear",),
    "schedule_options": ([],),
    "convention": ("standard",),
    "multipliers": ([],),
    "frozen": ([],),
    "unfreezing": (0,),
    "reinitialize_layers": (0,),
    "bias_correction": (True,),
    "label_smoothing": (0,),
    "eval_every": (None,),
    "metric": (None, "accuracy"),
    "patience": (None,),
    "compute.dtype": ("float32",),
    "compute.param_dtype": ("float32",),
}


@dataclass(frozen=True)
class Texts:
    """One file: token ids of each text, and labels [N] int64."""

    ids: list[torch.Tensor]
    labels: torch.Tensor


def read_plan(run: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a run, {setting: value} for `USED`.

    Raises:
      ValueError: settings that this script does not implement, all named; missing ones.
    """
    config = dict(run["config"])
    optimizer = config.pop("optimizer")
    compute = {f"compute.{name}": value for name, value in run["compute"].items()}
    settings = {**config, **optimizer, **compute}
    refused = [
        f"{name}={value!r}"
        for name, value in settings.items()
        if name not in USED | WITHOUT_EFFECT and value not in FIXED.get(name, ())
    ]
    if refused:
        raise ValueError(f"the run has settings not implemented here: {', '.join(refused)}")
    if missing := sorted((USED | FIXED.keys()) - settings.keys()):
        raise ValueError(f"run.json lacks the settings {', '.join(missing)}")
    plan = {name: settings[name] for name in sorted(USED)}
    plan["warmup"] = plan["warmup"] or 0.0
    plan["beta2"] = 0.999 if plan["beta2"] is None else plan["beta2"]
    return plan


def check_data(run: dict[str, Any], demo: Demo) -> None:
    """Raises ValueError unless the run was the demo's: its model, as many examples as its files."""
    wanted = {
        "model": str(demo.model),
        "train": len(read_rows(demo.train)),
        "evaluation": len(read_rows(demo.dev)),
    }
    data = {name: run["data"].get(name, {}).get("examples") for name in ("train", "evaluation")}
    found = {"model": run.get("model"), **data}
    if found != wanted:
        raise ValueError(f"the run is not one of the demo: it has {found}, the demo {wanted}")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a demo file: id, text, label."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_texts(path: Path, tokenizer: Any, max_length: int, limit: int | None) -> Texts:
    """A demo file, tokenized; with a limit, so many rows evenly out of the whole.

    The files are sorted by id, and the film reviews' ids by label: the first rows are of one class.
    """
    rows = read_rows(path)
    if limit:
        rows = rows[:: max(1, len(rows) // limit)][:limit]
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)
    labels = torch.tensor([LABELS.index(row["label"]) for row in rows])
    return Texts([torch.tensor(ids) for ids in encoded["input_ids"]], labels)


def padded(texts: Texts, members: Any, padding: int) -> dict[str, torch.Tensor]:
    """A batch padded to its longest text."""
    ids = [texts.ids[i] for i in members]
    lengths = torch.tensor([len(row) for row in ids])
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=padding)
    mask = (torch.arange(rows.shape[1]) < lengths[:, None]).long()
    return {"input_ids": rows, "attention_mask": mask}


def parameter_groups(model: torch.nn.Module, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """AdamW groups: the pooler at the full rate, layer i of n at rate * decay^(n - i), embeddings
    one below layer 0; the head at its own multiple of the rate. Layers that share their parameters
    are one layer.

    Weight decay on matrices only (no bias, no LayerNorm).
    """
    encoder = f"{model.base_model_prefix}."
    numbers = {name: _LAYER.search(name) for name, _ in model.named_parameters()}
    layers = len({found[1] for found in numbers.values() if found})
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if found := numbers[name]:
            depth = layers - int(found[1])
        else:
            depth = layers + 1 if _BELOW.search(name) else 0
        multiplier = plan["layer_decay"] ** depth
        if not name.startswith(encoder):
            multiplier = plan["head_multiplier"]
        groups.setdefault((multiplier, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": plan["learning_rate"] * multiplier,
            "weight_decay": plan["weight_decay"] if decayed else 0.0,
        }
        for (multiplier, decayed), members in groups.items()
    ]


@torch.no_grad()
def accuracy(model: Any, texts: Texts) -> float:
    """The share of a file's texts that the model labels right."""
    model.eval()
    order = sorted(range(len(texts.ids)), key=lambda i: len(texts.ids[i]))
    right = 0
    for at in range(0, len(order), EVAL_BATCH):
        chosen = order[at : at + EVAL_BATCH]
        logits = model(**padded(texts, chosen, model.config.pad_token_id)).logits
        right += int((logits.argmax(-1) == texts.labels[chosen]).sum())
    return right / len(order)


def train(model: Any, texts: Texts, dev: Texts, plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Epochs over shuffled batches; AdamW, warm-up then linear decay, clipping.

    Leaves the model as it was after the epoch with the best accuracy on `dev`, the first of equals.
    """
    started, size, epochs = time.perf_counter(), plan["batch_size"], plan["epochs"]
    total = epochs * -(-len(texts.ids) // size)
    warmup = plan["warmup"] if plan["warmup"] >= 1 else round(plan["warmup"] * total)
    betas = (plan["beta1"], plan["beta2"])
    optimizer = torch.optim.AdamW(parameter_groups(model, plan), betas=betas, eps=plan["epsilon"])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(warmup), total)
    rng = np.random.default_rng(seed)
    scores: list[float] = []
    best: dict[str, torch.Tensor] = {}
    for epoch in range(epochs):
        model.train()
        order = rng.permutation(len(texts.ids))
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            batch = padded(texts, chosen, model.config.pad_token_id)
            model(**batch, labels=texts.labels[chosen]).loss.backward()
            if plan["clip_norm"] is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), plan["clip_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        score = accuracy(model, dev)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: dev accuracy {score:.4f}, {seconds:.0f} s", file=sys.stderr)
        if not scores or score > max(scores):
            best = copy.deepcopy(model.state_dict())
        scores.append(score)
    model.load_state_dict(best)
    return {
        "steps": total,
        "dev_accuracy_by_epoch": scores,
        "best_epoch": 1 + scores.index(max(scores)),
        "seconds": round(time.perf_counter() - started, 2),
    }


def benchmark(plan: dict[str, Any], demo: Demo, seed: int, limit: int | None) -> dict[str, Any]:
    """Fine-tunes and scores; returns the result's own fields.

    seconds: training with its evaluations, as in run.json; peak memory: of the whole process.
    """
    torch.manual_seed(seed)  # the new head, and dropout
    torch.set_num_threads(cores())
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.model)
    model = transformers.BertForSequenceClassification.from_pretrained(
        demo.model,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        attn_implementation="sdpa",
        dtype=torch.float32,
    )
    paths = {"train": demo.train, "dev": demo.dev, "test": demo.test, **demo.out_of_domain}
    data = {n: read_texts(p, tokenizer, plan["max_length"], limit) for n, p in paths.items()}
    trained = train(model, data["train"], data["dev"], plan, seed)
    scored = {name: accuracy(model, texts) for name, texts in data.items() if name != "train"}
    return {
        **trained,
        "accuracy": scored,
        "examples": {name: len(texts.ids) for name, texts in data.items()},
        "peak_memory_bytes": peak_memory_bytes(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def print_table(row: dict[str, Any], run: dict[str, Any]) -> None:
    """Accuracy on every file, beside the run's own where it has been scored."""
    ours = run.get("scores", {})
    print(f"{'data':<8} {'examples':>8} {'PyTorch':>8} {'jaxbert':>8}")
    for name, score in row["accuracy"].items():
        beside = f"{ours[name]['accuracy']:8.4f}" if name in ours else f"{'-':>8}"
        print(f"{name:<8} {row['examples'][name]:>8} {score:8.4f} {beside}")
    memory = row["peak_memory_bytes"] / 2**30
    print(f"{row['steps']} steps in {row['seconds']:.0f} s, peak memory {memory:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}",
        description="Fine-tune the demo model in PyTorch with a jaxbert run's hyper-parameters.",
    )
    parser.add_argument("run", type=Path, help="directory of a run of `jaxbert demo`")
    parser.add_argument("--seed", type=int, default=0, help="of head, dropout, order (default 0)")
    parser.add_argument("--limit", type=int, help="so many rows of each file: to try it out")
    args = parser.parse_args()
    restart_with_allocator(NAME)
    demo = load_demo()
    try:
        run = json.loads((args.run / "run.json").read_text(encoding="utf-8"))
        plan = read_plan(run)
        check_data(run, demo)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{args.run}: {error}") from None
    row = {
        "command": shlex.join(["python", "-m", f"benchmarks.{NAME}", *sys.argv[1:]]),
        "seed": args.seed,
        "hyper_parameters": plan,
        **benchmark(plan, demo, args.seed, args.limit),
        **environment(),
    }
    print_table(row, run)
    if args.limit:
        print(json.dumps(row, indent=2))
    else:
        append_result(NAME, row)


if __name__ == "__main__":
    main()
