"""How much memory data of many rows takes: read, checked, tokenized and planned for.

    python -m benchmarks.rows                          # csv and jsonl of 100,000 to 1,000,000 rows
    python -m benchmarks.rows --rows 300000 --format csv

Each is `jaxbert finetune --dry-run` in a process of its own, on a tiny model and reviews made up of
its words, the fewer of which are long. What a row takes is the most memory that the process has
held beyond that of one which reads `FEW` rows, divided by the rows; of that the row's text and its
tokens, which stay for the training, are told apart. A line for each goes to results/rows.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.markdown import table
from benchmarks.results import append_result, environment

FEW = 1000
TEXT = "the film was good bad dull fine great poor weak fresh warm cold long short a plot cast end"
WORDS = TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FORMATS = ("csv", "jsonl", "tsv")
TOKEN_BYTES = 8  # an id and a type, 32 bits each


class Data(NamedTuple):
    """A file of so many rows: the bytes of their texts, and their tokens."""

    path: Path
    text_bytes: int
    tokens: int


def write_rows(path: Path, rows: int, seed: int = 0) -> Data:
    """Texts of 4 to 40 words, and one of three labels of different lengths."""
    draw, kind = random.Random(seed), path.suffix[1:]
    text_bytes = tokens = 0
    separator = "\t" if kind == "tsv" else ","
    with path.open("w", encoding="utf-8") as file:
        if kind != "jsonl":
            file.write(f"text{separator}label\n")
        for _ in range(rows):
            words = draw.choices(WORDS, k=4 + int(36 * draw.random() ** 3))
            text, label = " ".join(words), draw.choice(("no", "maybe", "certainly"))
            text_bytes, tokens = text_bytes + len(text), tokens + len(words) + 2
            if kind == "jsonl":
                file.write(json.dumps({"text": text, "label": label}) + "\n")
            else:
                file.write(f"{text}{separator}{label}\n")
    return Data(path, text_bytes, tokens)


def write_model(directory: Path) -> None:
    """Of no layers to speak of: it is the data that is measured."""
    from flax import nnx

    from jaxbert import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=16, num_attention_heads=2,
        num_hidden_layers=1, intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]), encoding="utf-8")


def dry_run(data: Data, model: Path, root: Path) -> dict[str, Any]:
    """The most memory that a process has held which does all but train, and its seconds."""
    command = [
        sys.executable, "-m", "jaxbert", "finetune", "--model", str(model), "--train",
        str(data.path), "--output", str(root / "out"), "--max-length", "64", "--dry-run",
    ]  # fmt: skip
    env = os.environ | {"JAXBERT_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1"}
    began, log = time.monotonic(), root / "log.txt"
    with log.open("w") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}: {log.read_text()}")
    return {"peak_bytes": usage.ru_maxrss * 1024, "seconds": round(time.monotonic() - began, 1)}


def measure(kind: str, counts: list[int], root: Path) -> list[dict[str, Any]]:
    """A row of results for each number of rows of a format."""
    found, base = [], 0
    for rows in (FEW, *counts):
        data = write_rows(root / f"rows.{kind}", rows)
        took = dry_run(data, root / "model", root)
        if not base:
            base = took["peak_bytes"]
            continue
        more = (took["peak_bytes"] - base) / rows
        text, tokens = data.text_bytes / rows, TOKEN_BYTES * data.tokens / rows
        found.append({
            "format": kind, "rows": rows, "file_bytes": data.path.stat().st_size, **took,
            "bytes_a_row": round(more), "text_bytes_a_row": round(text),
            "token_bytes_a_row": round(tokens), "beyond_bytes_a_row": round(more - text - tokens),
        })  # fmt: skip
    return found


def main() -> int:
    """Measures, prints, and keeps the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, action="append", help="repeatable")
    parser.add_argument("--format", choices=FORMATS, action="append", help="repeatable")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_model(root / "model")
        for kind in args.format or ("csv", "jsonl"):
            rows += measure(kind, args.rows or [100_000, 300_000, 1_000_000], root)
    for row in rows:
        append_result("rows", {**row, **environment()})
    print(shown(rows))
    return 0


def shown(rows: list[dict[str, Any]]) -> str:
    """As a table."""
    header = ["rows", "file, MiB", "peak, MiB", "bytes a row", "text", "tokens", "beyond", "s"]
    cells = [
        [f"{row['rows']:,} {row['format']}", f"{row['file_bytes'] / 2**20:.0f}",
         f"{row['peak_bytes'] / 2**20:,.0f}", str(row["bytes_a_row"]),
         str(row["text_bytes_a_row"]), str(row["token_bytes_a_row"]),
         str(row["beyond_bytes_a_row"]), f"{row['seconds']:.0f}"]
        for row in rows
    ]  # fmt: skip
    return table(header, cells)


if __name__ == "__main__":
    raise SystemExit(main())
