"""Checkpoints: the training state and the place in the data, written as one, by orbax.

A checkpoint is a directory that gets its final name when it is complete, so one that is there is
whole. Writing goes on in the background; `wait` and `close` see it done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxbert.training.step import TrainState


class Checkpoints:
    """The checkpoints of a run, oldest first, at most `keep` of them.

    Args:
      directory: made when missing.
      keep: how many of the newest stay.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Writes the state, and where the run is (JSON), under the state's step.

        The arrays are copied before this returns, so the state may be donated afterwards.
        """
        step = int(state.step)
        if step == self.latest:
            return
        args = self._ocp.args
        items = args.Composite(
            state=args.StandardSave(state._asdict()), progress=args.JsonSave(progress)
        )
        self._manager.save(step, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state, bit for bit, and its progress.

        Args:
          like: a state of the same shapes (arrays or `jax.ShapeDtypeStruct`s).

        Raises:
          FileNotFoundError: there is none. ValueError: it is of another model or optimizer.
        """
        if self.latest is None:
            raise FileNotFoundError(
                f"{self._manager.directory}: no checkpoint to resume from; start without --resume"
            )
        args = self._ocp.args
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like._asdict())
        wanted = args.Composite(state=args.StandardRestore(abstract), progress=args.JsonRestore())
        try:
            found = self._manager.restore(self.latest, args=wanted)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self._manager.directory}: checkpoint {self.latest} does not fit this model and "
                f"optimizer: {str(error).splitlines()[0]}; resume with the configuration it was "
                "written with"
            ) from error
        return TrainState(**found["state"]), found["progress"]

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()
