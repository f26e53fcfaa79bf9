"""PyTorch's side of `benchmarks.level`: Hugging Face's `Trainer`, one run, its scores as JSON.

Tokenizer calls, labels, collators and the reading of predictions are written here on `transformers`
alone, as Hugging Face's example scripts have them. What a metric is (seqeval's F1, SQuAD's, ...) is
the same function on both sides. Rows are padded to the longest of a batch, and, as its users have
it fast, grouped by length; `--batching` has the defaults of `Trainer` and of run_glue.py as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

Rows = list[dict[str, Any]]


class Features(torch.utils.data.Dataset):
    """Rows of `transformers`' inputs."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class Side:
    """One task: rows to features, features to a model, predictions to scores."""

    collator: Any = DataCollatorWithPadding

    def __init__(self, tokenizer: Any, train: Rows, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.names = self.labels_of(train)

    def labels_of(self, train: Rows) -> list[str]:
        return sorted({str(row["label"]) for row in train})

    def model(self, directory: str) -> Any:
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, num_labels=len(self.names)
        )

    def label(self, row: dict[str, Any]) -> Any:
        return self.names.index(str(row["label"]))

    def features(self, rows: Rows) -> Rows:
        pair = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
        texts = [row["text"] for row in rows]
        found = self.tokenizer(texts, pair, truncation=True, max_length=self.max_length)
        return [
            {**{k: found[k][i] for k in found}, "labels": self.label(row)}
            for i, row in enumerate(rows)
        ]

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        from jaxbert.tasks.metrics import CLASSIFICATION, compute_scores

        labels = np.array([self.label(row) for row in rows])
        return compute_scores(CLASSIFICATION, labels, logits.argmax(-1))


class Regression(Side):
    def labels_of(self, train: Rows) -> list[str]:
        return ["score"]

    def label(self, row: dict[str, Any]) -> float:
        return float(row["label"])

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        from jaxbert.tasks.metrics import REGRESSION, compute_scores

        labels = np.array([self.label(row) for row in rows], np.float32)
        return compute_scores(REGRESSION, labels, logits[:, 0])


class SeveralLabels(Side):
    def labels_of(self, train: Rows) -> list[str]:
        return sorted({name for row in train for name in row["label"]})

    def model(self, directory: str) -> Any:
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, num_labels=len(self.names), problem_type="multi_label_classification"
        )

    def label(self, row: dict[str, Any]) -> list[float]:
        return [float(name in row["label"]) for name in self.names]

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        from sklearn.metrics import f1_score

        labels = np.array([self.label(row) for row in rows])
        return {"micro_f1": float(f1_score(labels, logits > 0, average="micro", zero_division=0))}


class Tags(Side):
    collator = transformers.DataCollatorForTokenClassification

    def labels_of(self, train: Rows) -> list[str]:
        return sorted({tag for row in train for tag in row["tags"]})

    def model(self, directory: str) -> Any:
        return transformers.AutoModelForTokenClassification.from_pretrained(
            directory, num_labels=len(self.names)
        )

    def features(self, rows: Rows) -> Rows:
        found = self.tokenizer(
            [row["tokens"] for row in rows], is_split_into_words=True, truncation=True,
            max_length=self.max_length,
        )  # fmt: skip
        made = []
        for i, row in enumerate(rows):
            words, labels = found.word_ids(i), []
            for before, word in zip([None, *words], words, strict=False):
                new = word is not None and word != before
                labels.append(self.names.index(row["tags"][word]) if new else -100)
            made.append({**{k: found[k][i] for k in found}, "labels": labels})
        return made

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        from jaxbert.tasks.entities import entity_scores

        given, guessed = [], []
        for row, feature, values in zip(rows, features, logits, strict=True):
            labels = np.array(feature["labels"])
            best = values[: len(labels)].argmax(-1)[labels != -100]
            tags = [self.names[i] for i in best]
            given.append(row["tags"])
            guessed.append(tags + ["O"] * (len(row["tags"]) - len(tags)))  # what was cut
        return entity_scores(given, guessed)


class Answers(Side):
    doc_stride = 64

    def labels_of(self, train: Rows) -> list[str]:
        return []

    def model(self, directory: str) -> Any:
        return transformers.AutoModelForQuestionAnswering.from_pretrained(directory)

    def _windows(self, rows: Rows) -> Any:
        return self.tokenizer(
            [row["question"] for row in rows], [row["context"] for row in rows],
            truncation="only_second", max_length=self.max_length, stride=self.doc_stride,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip

    def features(self, rows: Rows) -> Rows:
        found, made = self._windows(rows), []
        for i, example in enumerate(found["overflow_to_sample_mapping"]):
            answers, offsets = rows[example]["answers"], found["offset_mapping"][i]
            start = answers["answer_start"][0]
            end = start + len(answers["text"][0])
            inside = [j for j, s in enumerate(found.sequence_ids(i)) if s == 1]
            first = last = 0
            if offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end:
                first = max(j for j in inside if offsets[j][0] <= start)
                last = min(j for j in inside if offsets[j][1] >= end)
            kept = {k: found[k][i] for k in ("input_ids", "token_type_ids", "attention_mask")}
            made.append({**kept, "start_positions": first, "end_positions": last})
        return made

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        from jaxbert.tasks.answer_scores import score_each

        found, best = self._windows(rows), {}
        for i, example in enumerate(found["overflow_to_sample_mapping"]):
            offsets = found["offset_mapping"][i]
            inside = {j for j, s in enumerate(found.sequence_ids(i)) if s == 1}
            start, end = (values[i][: len(offsets)] for values in logits)
            for j in np.argsort(-start)[:20]:
                for k in np.argsort(-end)[:20]:
                    if j in inside and k in inside and j <= k < j + 30:
                        text = rows[example]["context"][offsets[j][0] : offsets[k][1]]
                        best[example] = max(
                            best.get(example, (-1e9, "")), (start[j] + end[k], text)
                        )
        golds = [row["answers"]["text"] for row in rows]
        told = [best.get(i, (0, ""))[1] for i in range(len(rows))]
        scored = score_each(golds, told, second=False)
        return {"exact_match": 100 * scored.exact.mean(), "f1": 100 * scored.f1.mean()}


class Choices(Side):
    collator = transformers.DataCollatorForMultipleChoice

    def labels_of(self, train: Rows) -> list[str]:
        return []

    def model(self, directory: str) -> Any:
        return transformers.AutoModelForMultipleChoice.from_pretrained(directory)

    def features(self, rows: Rows) -> Rows:
        made = []
        most = max(len(row["choices"]) for row in rows)
        for row in rows:
            # The class takes as many choices in every row: what is missing is an empty text.
            choices = [*row["choices"], *[""] * (most - len(row["choices"]))]
            found = self.tokenizer(
                [row["question"]] * most, choices, truncation=True, max_length=self.max_length
            )
            made.append({**{k: found[k] for k in found}, "labels": row["label"]})
        return made

    def scores(self, rows: Rows, features: Rows, logits: Any) -> dict[str, float]:
        right = [
            values[: len(row["choices"])].argmax() == row["label"]
            for row, values in zip(rows, logits, strict=True)
        ]
        return {"accuracy": float(np.mean(right))}


# name: (order of the training rows, padding of a batch's)
BATCHING: dict[str, tuple[str, str | bool]] = {
    "grouped": ("group_by_length", True),
    "random": ("random", True),
    "padded": ("random", "max_length"),
}
SIDES: dict[str, type[Side]] = {
    "text-classification": Side,
    "text-regression": Regression,
    "multi-label-classification": SeveralLabels,
    "token-classification": Tags,
    "question-answering": Answers,
    "multiple-choice": Choices,
}


def _logits(trainer: Any, features: Rows, *, by_length: bool) -> Any:
    """What the model makes of the features, in their order; computed in that of their lengths.

    Grouping of the training rows alone would score in an order of its own, and tell nobody.
    """
    trainer.args.train_sampling_strategy = "sequential"
    order = np.arange(len(features))
    if by_length:
        order = np.argsort([-len(row["input_ids"]) for row in features], kind="stable")
    found = trainer.predict(Features([features[i] for i in order])).predictions
    back = np.argsort(order)
    return tuple(values[back] for values in found) if isinstance(found, tuple) else found[back]


class FirstStep(TrainerCallback):
    """Makes a file when the first step is done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._path.touch()


def main() -> None:
    """Trains, scores the test rows, and prints {metric: value}."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--task", "--model", "--train", "--test"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--first-step", type=Path, help="a file to make when it is done")
    parser.add_argument("--batching", choices=list(BATCHING), default="grouped")
    args = parser.parse_args()
    sampling, padding = BATCHING[args.batching]
    transformers.set_seed(args.seed)
    train, test = (
        [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for path in (args.train, args.test)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    side = SIDES[args.task](tokenizer, train, args.max_length)
    learned, scored = side.features(train), side.features(test)
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            side.model(args.model),
            TrainingArguments(
                directory, seed=args.seed, num_train_epochs=args.epochs,
                learning_rate=args.learning_rate, per_device_train_batch_size=32,
                per_device_eval_batch_size=32, warmup_steps=0.1, lr_scheduler_type="linear",
                weight_decay=0.01, adam_epsilon=1e-6, max_grad_norm=1.0, save_strategy="no",
                report_to=[], disable_tqdm=True, train_sampling_strategy=sampling,
            ),
            train_dataset=Features(learned),
            data_collator=side.collator(tokenizer, padding=padding, max_length=args.max_length),
        )  # fmt: skip
        if args.first_step:
            trainer.add_callback(FirstStep(args.first_step))
        trainer.train()
        logits = _logits(trainer, scored, by_length=args.batching == "grouped")
        trainer.save_model(directory)
    json.dump(side.scores(test, scored, logits), sys.stdout)


if __name__ == "__main__":
    main()
