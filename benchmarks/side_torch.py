"""PyTorch's side of a comparison: `transformers`, eager or compiled, and fused AdamW.

Attention is SDPA where the family has it there; DeBERTa and MPNet have their own code alone.

It reads the files that `workload` wrote, and imports neither jax nor anything that does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import padding
from benchmarks.protocol import Side, serve
from benchmarks.results import peak_memory_bytes
from benchmarks.torch_finetune import parameter_groups
from benchmarks.workload import TOTAL_STEPS, Workload, read_data
from jaxbert.cpu import cores

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class TorchSide(Side):
    """See `Side`.

    Args:
      compile: whether the model goes through torch.compile.
      flash: attention by FlashAttention's kernel or not at all; else PyTorch chooses.
    """

    def __init__(
        self, workload: Workload, directory: Path, device: str, compile: bool, flash: bool = False
    ) -> None:
        if device not in DEVICES:
            raise ValueError(f"{device=}: PyTorch is measured on {', '.join(DEVICES)}")
        self.workload = workload
        self.device = torch.device(DEVICES[device])
        torch.set_num_threads(cores())
        torch.manual_seed(workload.seed)
        self._data = read_data(directory)
        if flash:
            for switch in ("cudnn", "mem_efficient", "math"):
                getattr(torch.backends.cuda, f"enable_{switch}_sdp")(False)
        # SDPA is what it takes by itself, and asked for by name it is refused where there is none.
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(
            directory / "model", dtype=torch.float32
        ).to(self.device)
        # Lengths that change from batch to batch would each be compiled anew.
        dynamic = workload.padding == "grouped"
        self._forward = torch.compile(self._model, dynamic=dynamic) if compile else self._model
        self._model.train(workload.kind == "train")
        if workload.kind == "train":
            settings = json.loads((directory / "optimizer.json").read_text(encoding="utf-8"))
            self._start(settings)

    def _start(self, settings: dict[str, Any]) -> None:
        self._clip = settings["clip_norm"]
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self._model, settings),
            betas=(settings["beta1"], 0.999 if settings["beta2"] is None else settings["beta2"]),
            eps=settings["epsilon"],
            fused=True,
        )
        warmup = round((settings["warmup"] or 0) * TOTAL_STEPS)
        self._schedule = transformers.get_linear_schedule_with_warmup(
            self._optimizer, warmup, TOTAL_STEPS
        )

    def about(self) -> dict[str, Any]:
        gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if gpu else "cpu"
        return {
            "platform": "gpu" if gpu else "cpu",
            "device": name,
            "threads": torch.get_num_threads(),
        }

    def loss(self) -> float:
        self._model.eval()
        with torch.inference_mode(), self._autocast():
            batch = self._put(padding.batch(self._data, self.workload, range(self.workload.batch)))
            loss = float(self._forward(**batch).loss)
        self._model.train(self.workload.kind == "train")
        return loss

    def batches(self) -> Iterable[Mapping[str, torch.Tensor]]:
        return map(self._put, padding.batches(self._data, self.workload))

    def _put(self, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(x).long().to(self.device) for name, x in batch.items()}

    def step(self, batch: Mapping[str, torch.Tensor]) -> None:
        if self.workload.kind == "infer":
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with torch.inference_mode(), self._autocast():
                self._forward(**inputs)
            return
        with self._autocast():
            loss = self._forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> torch.autocast:
        enabled = self.workload.dtype == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_memory_bytes()


if __name__ == "__main__":
    serve(TorchSide)
