"""Seven tasks on public data, as JSON lines that both sides of `benchmarks.level` read.

Given the directory that holds the published files (SST-2, CoLA, STS-B, WNUT-17, XQuAD-en), two more
tasks are made of them: which kinds of entities a sentence names (several labels), and which of four
sentences of a paragraph holds a question's answer (a choice).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Rows = list[dict[str, Any]]


class Level(NamedTuple):
    """One row of the table.

    task: of jaxbert. files: (training, test) in the data's directory. read: a file -> rows.
    metric: what is compared. epochs, learning_rate, max_length: of both sides.
    flags: what jaxbert's command needs beside the files.
    """

    task: str
    files: tuple[str, str]
    read: Callable[[Path], Rows]
    metric: str
    epochs: int
    learning_rate: float
    max_length: int
    flags: tuple[str, ...] = ()


def _pairs(path: Path) -> Rows:
    """A text, a tab, a label."""
    rows = [line.rpartition("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"text": text, "label": label} for text, _, label in rows if text]


def _similarities(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {"text": first, "text_pair": second, "label": f"{float(score):.3f}"}
            for first, second, score in csv.reader(file)
        ]


def _tagged(path: Path) -> Rows:
    sentences: Rows = [{"tokens": [], "tags": []}]
    for line in path.read_text(encoding="utf-8").split("\n"):
        token, _, tag = line.rpartition("\t")
        if not token.strip():
            sentences.append({"tokens": [], "tags": []})
            continue
        sentences[-1]["tokens"].append(token.strip())
        sentences[-1]["tags"].append(tag.strip())
    return [row for row in sentences if row["tokens"]]


def _kinds(path: Path) -> Rows:
    """Of sentences that name something: which kinds of entities."""
    rows = [
        {
            "text": " ".join(row["tokens"]),
            "label": sorted({tag[2:] for tag in row["tags"] if tag != "O"}),
        }
        for row in _tagged(path)
    ]
    return [row for row in rows if row["label"]]


def _questions(path: Path) -> Rows:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        {
            "id": asked["id"],
            "question": asked["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in asked["answers"]],
                "answer_start": [answer["answer_start"] for answer in asked["answers"]],
            },
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def _choices(path: Path) -> Rows:
    """The sentence with the answer among up to three others of the paragraph, shuffled."""
    rows = []
    for number, row in enumerate(_questions(path)):
        start = row["answers"]["answer_start"][0]
        sentences = list(_sentences(row["context"]))
        right = [text for first, text in sentences if first <= start < first + len(text)]
        others = [text for _, text in sentences if text not in right]
        if not right or not others:
            continue
        rng = np.random.default_rng(number)
        shown = [right[0], *(others[i] for i in rng.permutation(len(others))[:3])]
        order = rng.permutation(len(shown))
        rows.append(
            {
                "question": row["question"],
                "choices": [shown[i] for i in order],
                "label": int(np.flatnonzero(order == 0)[0]),
            }
        )
    return rows


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for end in [i + 1 for i in range(len(text) - 1) if text[i] in ".!?" and text[i + 1] == " "]:
        yield start, text[start:end]
        start = end + 1
    yield start, text[start:]


LEVELS = {
    "sst2": Level("text-classification", ("sst2.train.tsv", "sst2.test.tsv"), _pairs, "accuracy",
                  1, 1e-4, 128),
    "cola": Level("text-classification", ("cola.train.tsv", "cola.dev.tsv"), _pairs, "matthews",
                  3, 1e-4, 64),
    "stsb": Level("text-regression", ("stsb.train.csv", "stsb.dev.csv"), _similarities, "spearman",
                  3, 1e-4, 128, ("--text-pair-column", "text_pair")),
    "wnut17": Level("token-classification", ("wnut17.train.conll", "wnut17.dev.conll"), _tagged,
                    "f1", 3, 3e-4, 128),
    "xquad": Level("question-answering", ("xquad.train.json", "xquad.test.json"), _questions, "f1",
                   2, 3e-4, 256, ("--doc-stride", "64")),
    "entity-kinds": Level("multi-label-classification", ("wnut17.train.conll", "wnut17.dev.conll"),
                          _kinds, "micro_f1", 4, 3e-4, 128),
    "answer-sentence": Level("multiple-choice", ("xquad.train.json", "xquad.test.json"), _choices,
                             "accuracy", 1, 1e-4, 128),
}  # fmt: skip


def prepare(name: str, source: Path, target: Path, examples: int | None) -> dict[str, Any]:
    """Writes train.jsonl and test.jsonl of a level into a directory.

    Args:
      source: the directory of the published files.
      examples: so many of the training rows and half as many of the test's, drawn once; None = all.

    Returns:
      {"train": path, "test": path, "rows": (how many of each), "sha256": of the published files}.
    """
    level = LEVELS[name]
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"sha256": {}, "rows": []}
    for role, file in zip(("train", "test"), level.files, strict=True):
        rows = level.read(source / file)
        count = None if examples is None else examples if role == "train" else examples // 2
        if count is not None:
            chosen = np.random.default_rng(0).permutation(len(rows))[:count]
            rows = [rows[i] for i in np.sort(chosen)]
        path = target / f"{role}.jsonl"
        path.write_text(_lines(rows), encoding="utf-8")
        found[role] = str(path)
        found["rows"].append(len(rows))
        found["sha256"][file] = hashlib.sha256((source / file).read_bytes()).hexdigest()
    return found


def _lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
