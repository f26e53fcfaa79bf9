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
from jaxbert.models import AutoModelForSequenceClassification, split_model
from jaxbert.optim import OptimizerConfig
from jaxbert.tasks import TEXT_CLASSIFICATION
from jaxbert.training.assemble import assemble
from jaxbert.training.config import TrainConfig
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.step import make_eval_step


class JaxbertSide(JaxSide):
    """See `Side`."""

    def __init__(self, workload: Workload, directory: Path, device: str) -> None:
        self.workload = workload
        data = read_data(directory)
        self._passes = self._layout(data)
        self._first = self._layout(data.first(workload.batch))
        model = AutoModelForSequenceClassification.from_pretrained(
            directory / "model", dtype=workload.dtype
        )
        self._graphdef, params = split_model(model)
        self._engine = make_engine()
        self._results: list[Any] = []
        settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
        if workload.kind == "infer":
            self._step, self._state = self._evaluation(), params
        else:
            self._start(model, OptimizerConfig.from_dict(settings))

    def _start(self, model: Any, optimizer: OptimizerConfig) -> None:
        config = TrainConfig(
            epochs=1,
            batch_size=self.workload.batch,
            max_length=self.workload.length,
            seed=self.workload.seed,
            optimizer=optimizer,
        )
        assembled = assemble(model, TEXT_CLASSIFICATION, config, self._engine, TOTAL_STEPS)
        self._step, self._state = assembled.step, assembled.state

    def _evaluation(self) -> Compiled:
        return Compiled(make_eval_step(self._graphdef, TEXT_CLASSIFICATION), self._engine)

    def _layout(self, data: Data) -> Batches:
        work = self.workload
        types = np.zeros_like(data.input_ids)
        tokenized = Tokenized(data.input_ids, types, data.offsets, data.labels)
        return Batches(tokenized, work.batch, max_length=work.length, layout=work.layout)

    def loss(self) -> float:
        batch = self._engine.put_batch(next(self._first.epoch(0)))
        params = self._state if self.workload.kind == "infer" else self._state.params
        out = self._evaluation()(params, batch)
        return float(out["loss_sum"] / out["count"])

    def batches(self) -> Iterable[Mapping[str, Any]]:
        return Prefetch(self._passes.epoch(0))

    def step(self, batch: Mapping[str, Any]) -> None:
        if self.workload.kind == "train":
            self._state, values = self._step(self._state, self._step.engine.put_batch(batch))
        else:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            values = self._step(self._state, self._step.engine.put_batch(inputs))
        self._results.append(values)

    def program_text(self) -> str:
        """The compiled step's, of the one shape that ran."""
        ((program, _),) = self._step.programs.values()
        return program.as_text()


if __name__ == "__main__":
    serve(JaxbertSide)
