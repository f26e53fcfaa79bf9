"""Pre-trains a small BERT, whose learning rate is known because it was chosen here.

    python -m benchmarks.small_bert --data DIR --output runs/small

Four layers of 256, by masked language modelling on the training texts of the demo's films and of
SST-2, CoLA, STS-B, WNUT-17 and XQuAD, with a WordPiece vocabulary made of them: a modest model, for
the study of learning rates (benchmarks/lab/PLAN.md), where claims about the rate of pre-training
want one that is known exactly. A text that is in a development or test set is left out: the films
and SST-2 are parts of one collection, split in two ways.

Writes the model's directory, and its rate, schedule and curve to results/small_bert.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.level_data import LEVELS
from benchmarks.results import append_result, environment

NAME = "small_bert"
SOURCES = ("sst2", "cola", "stsb", "wnut17", "xquad")
VOCABULARY = 8_000
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 1024, "max_position_embeddings": 128}  # fmt: skip
TRAINING = {"strategy": "uniform", "learning-rate": 1e-3, "schedule": "linear", "epochs": 16,
            "batch-size": 64, "max-length": 64, "seed": 0, "dtype": "bfloat16"}  # fmt: skip
_HELD_OUT = 50  # one text of so many tells how well the others are learned


def main() -> None:
    """Makes the vocabulary and the first parameters, and has them trained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the published files")
    parser.add_argument("--output", type=Path, required=True, help="directory of the model")
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    args = parser.parse_args()
    training = {**TRAINING, "epochs": args.epochs}
    found = kept(texts(args.data), texts(args.data, training=False))
    with tempfile.TemporaryDirectory() as folder:
        start, files = Path(folder) / "start", _split(found, Path(folder))
        make_start(found, start)
        flags = [word for name, value in training.items() for word in (f"--{name}", str(value))]
        subprocess.run(
            [sys.executable, "-m", "jaxbert", "finetune", "--task", "masked-lm", "--model", start,
             "--train", files["train"], "--eval", files["eval"], "--output", args.output, *flags],
            check=True,
        )  # fmt: skip
    append_result(NAME, {**summary(args.output), "shape": SHAPE, "training": training})


def texts(data: Path, *, training: bool = True) -> Iterator[str]:
    """The texts that are trained with, or those of development and test sets; one line each."""
    from jaxbert.data import load_demo

    films = load_demo()
    for path in (films.train,) if training else (films.dev, films.test):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (_line(row["text"]) for row in csv.DictReader(file))
    for name in SOURCES:
        level = LEVELS[name]
        train = data / level.files[0]
        others = sorted(path for path in data.glob(f"{name}.*") if path != train)
        for path in (train,) if training else others:
            for row in level.read(path):
                yield from filter(None, map(_line, _texts_of(row)))


def kept(training: Iterable[str], held_out: Iterable[str]) -> list[str]:
    """The training texts that are not held out, each once, in an order of their own.

    Example:
      >>> kept(["It's good .", "bad", "bad"], ["its good."])
      ['bad']
    """
    taken = {_letters(text) for text in held_out}
    return sorted({text for text in training if _letters(text) not in taken})


def _texts_of(row: dict[str, Any]) -> list[str]:
    if "tokens" in row:
        return [" ".join(row["tokens"])]
    sentences = row.get("context", "").split(". ")
    return [
        *(row[field] for field in ("text", "text_pair", "question") if field in row),
        *sentences,
    ]


def make_start(found: list[str], directory: Path) -> None:
    """A tokenizer of the texts, and parameters that know nothing yet."""
    from flax import nnx
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    from jaxbert import BertConfig, BertForMaskedLM
    from jaxbert.data import save_tokenizer

    directory.mkdir(parents=True)
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(found, vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    pieces.save_model(str(directory))
    config = BertConfig(vocab_size=pieces.get_vocab_size(), **SHAPE)
    BertForMaskedLM(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
    save_tokenizer(BertTokenizer.from_pretrained(directory), directory)


def summary(directory: Path) -> dict[str, Any]:
    """What is kept of the run: its rate, its losses on the way, its scores."""
    run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if row["event"] == "train"]
    every = max(1, len(steps) // 30)
    return {
        "total_steps": run["total_steps"],
        "texts": run["data"]["train"]["examples"],
        "curve": [[row["step"], round(row["loss"], 4)] for row in steps[::every]],
        "evaluations": run["evaluations"],
        "seconds": run["seconds"],
        **environment(),
    }


def _split(found: list[str], folder: Path) -> dict[str, Path]:
    """One text a line, in files of those to train with and those to score by."""
    parts = {"train": [], "eval": []}
    for number, text in enumerate(found):
        parts["train" if number % _HELD_OUT else "eval"].append(text)
    files = {role: folder / f"{role}.txt" for role in parts}
    for role, lines in parts.items():
        files[role].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return files


def _letters(text: str) -> str:
    """What is left where two collections write a text in two ways."""
    return "".join(filter(str.isalnum, text.lower()))


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
