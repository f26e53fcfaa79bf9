"""jaxbert's side of a comparison: its own training and evaluation steps, batches and optimizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jax_side import JaxSide
from benchmarks.protocol import serve
from benchmarks.workload import TOTAL_STEPS, Data, Workload, read_data
from jaxbert.data import Batches, Prefetch, Tokenized
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig, make_optimizer, trainable_mask
from jaxbert.training import parallel
from jaxbert.training.losses import classification
from jaxbert.training.step import init_state, make_eval_step, make_train_step


class JaxbertSide(JaxSide):
    """See `Side`."""

    def __init__(self, workload: Workload, directory: Path, device: str) -> None:
        self.workload = workload
        data = read_data(directory)
        self._passes = self._layout(data)
        self._first = self._layout(data.first(workload.batch))
        model = BertForSequenceClassification.from_pretrained(
            directory / "model", dtype=workload.dtype
        )
        self._graphdef, self._params = split_model(model)
        self._results: list[Any] = []
        settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
        self._start(OptimizerConfig.from_dict(settings))

    def _start(self, config: OptimizerConfig) -> None:
        if self.workload.kind == "infer":
            step = make_eval_step(self._graphdef, classification)
            self._step, self._state = parallel.Compiled(step), self._params
            return
        optimizer = make_optimizer(config, self._params, TOTAL_STEPS, TOTAL_STEPS)
        step = make_train_step(
            self._graphdef,
            optimizer,
            classification,
            trainable=trainable_mask(config, self._params),
        )
        self._step = parallel.Compiled(step, donate=True)
        self._state = init_state(self._params, optimizer, self.workload.seed)

    def _layout(self, data: Data) -> Batches:
        work = self.workload
        types = np.zeros_like(data.input_ids)
        tokenized = Tokenized(data.input_ids, types, data.offsets, data.labels)
        return Batches(tokenized, work.batch, max_length=work.length, layout=work.layout)

    def loss(self) -> float:
        step = parallel.Compiled(make_eval_step(self._graphdef, classification))
        out = step(self._params, parallel.put(next(self._first.epoch(0))))
        return float(out["loss_sum"] / out["count"])

    def batches(self) -> Iterable[Mapping[str, Any]]:
        return Prefetch(self._passes.epoch(0))

    def step(self, batch: Mapping[str, Any]) -> None:
        if self.workload.kind == "train":
            self._state, values = self._step(self._state, parallel.put(batch))
        else:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            values = self._step(self._state, parallel.put(inputs))
        self._results.append(values)

    def program_text(self) -> str:
        """The compiled step's, of the one shape that ran."""
        ((program, _),) = self._step._programs.values()
        return program.as_text()


if __name__ == "__main__":
    serve(JaxbertSide)
