"""Checkpoints: the training state and the place in the data, written as one, by orbax.

A checkpoint is a directory that gets its final name when it is complete. Writing goes on in the
background, by all processes. What is read is compared with sums taken before it was written; a
checkpoint that is damaged is named and set aside, and the one before it is used. Only its bytes
make it damaged: too little memory, or a disk that cannot be read, says nothing of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbert.errors import InputError
from jaxbert.training.step import TrainState

logger = logging.getLogger("jaxbert")

_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = ".damaged"
_DESCRIPTION = 2**18  # bytes of what is written beside the arrays

# What reading bytes that have changed, or are gone, ends with in Python ...
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error),
    *_MISSING,
)
# ... but tensorstore says everything by a ValueError that begins with a status. Those of damage are
# DATA_LOSS, OUT_OF_RANGE, FAILED_PRECONDITION, NOT_FOUND and INVALID_ARGUMENT, unless the system's
# own number is with them; these are not.
_OTHER_STATUS = re.compile(
    "(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|ALREADY_EXISTS|PERMISSION_DENIED|RESOURCE_EXHAUSTED|"
    "ABORTED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|UNAUTHENTICATED): "
)
_SYSTEM_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")
_MISSING_NUMBERS = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR}


class _DamagedError(Exception):
    """What is on disk is not what was written."""


class Checkpoints:
    """The checkpoints of a run: the `keep` newest, and the best.

    Args:
      directory: made when missing.
      keep: how many of the newest stay.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self._ocp, self._directory = ocp, Path(directory).absolute()
        for left in sorted(self._directory.glob(f"*{_UNFINISHED}*")):
            step = left.name.partition(".")[0]
            logger.warning("%s: checkpoint %s was never finished, deleting it", directory, step)
        self._policy = _NewestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            create=True, cleanup_tmp_directories=True, preservation_policy=self._policy
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, notes: dict[str, Any], best: int | None = None) -> None:
        """Writes the state, and what belongs to it, under the state's step.

        The arrays are copied before this returns, so the state may be donated afterwards.

        Args:
          state: of one run; a step that is there already is not written again.
          notes: JSON.
          best: the step of the best checkpoint so far, which is kept.
        """
        step = int(state.step)
        self._policy.best = best
        if step == self.latest:
            return
        contents = {"shapes": _shapes(state), "sum": _checksum(state), "notes": notes}
        self._check_room(state)
        args = self._ocp.args
        items = args.Composite(
            state=args.StandardSave(state._asdict()),
            contents=args.JsonSave({"crc32": _crc32(contents), **contents}),
        )
        with self._telling():
            self._manager.save(step, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state that is whole, bit for bit, and its notes.

        Args:
          like: a state of the same shapes, sharded the way that it will be.

        Returns:
          The state, sharded like `like`, and the notes.

        Raises:
          FileNotFoundError: there is none.
          InputError: it is of another model or optimizer, or all are damaged.
          Exception: whatever kept it from being read, as it is; the checkpoint stays.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(
                f"{self._directory}: no checkpoint to resume from; start without --resume"
            )
        for step in steps:
            try:
                return self._read(step, like)
            except _DamagedError as error:
                logger.warning(
                    "%s: checkpoint %d is damaged (%s), it is now called %d%s; trying the one "
                    "before", self._directory, step, error, step, _DAMAGED,
                )  # fmt: skip
                self._set_aside(step)
        raise InputError(
            f"{self._directory}: every checkpoint is damaged ({', '.join(map(str, steps))}); "
            "train again with --overwrite"
        )

    def close(self) -> None:
        """Waits until all is written.

        Raises:
          OSError: it could not be.
        """
        with self._telling():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def _check_room(self, state: TrainState) -> None:
        """OSError before anything is begun on a disk that has no room for it.

        Else orbax, which writes by many threads at once, has each of them say so at length.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state._asdict())) + _DESCRIPTION
        free = shutil.disk_usage(self._directory).free
        if jax.process_count() == 1 and free < needed:
            raise OSError(
                f"{self._directory}: a checkpoint takes {needed / 2**20:.1f} MiB and "
                f"{free / 2**20:.1f} MiB are free; make room, then continue with --resume"
            )

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Whatever the system refuses while a checkpoint is written, in one line."""
        try:
            yield
        except Exception as error:
            reason = next(filter(None, map(_refusal, _chain(error))), None)
            if reason is None:
                raise
            raise OSError(
                f"{self._directory}: a checkpoint could not be written: {reason}; see to it, then "
                "continue with --resume"
            ) from error

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        contents = self._item(step, "contents", self._ocp.args.JsonRestore())
        if not isinstance(contents, dict) or contents.pop("crc32", None) != _crc32(contents):
            raise _DamagedError("its description has changed")
        wanted = _shapes(like)
        if contents["shapes"] != wanted:
            differ = sorted(dict(contents["shapes"].items() ^ wanted.items()))
            raise InputError(
                f"{self._directory}: checkpoint {step} does not fit this model and optimizer: "
                f"{len(differ)} arrays differ, {differ[0]} for one; resume with the configuration "
                "it was written with"
            )
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like._asdict())
        state = TrainState(**self._item(step, "state", self._ocp.args.StandardRestore(abstract)))
        if _checksum(state) != contents["sum"]:
            raise _DamagedError("its arrays have changed")
        return state, contents["notes"]

    def _item(self, step: int, name: str, how: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**{name: how}))[name]
        except Exception as error:
            if not _shows_damage(error):
                path = self._directory / str(step)
                error.add_note(f"while reading {path}; move it away to resume from the one before")
                raise
            raise _DamagedError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error

    def _set_aside(self, step: int) -> None:
        """Out of the way of the checkpoints to come; not deleted, a disk may yet recover."""
        if jax.process_index() == 0:
            target = self._directory / f"{step}{_DAMAGED}"
            shutil.rmtree(target, ignore_errors=True)
            os.replace(self._directory / str(step), target)
        self._ocp.multihost.sync_global_processes(f"set aside {step}")
        self._manager.reload()


class _NewestAndBest:
    """An orbax preservation policy."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, oldest first, whether it stays."""
        del context
        oldest = len(checkpoints) - self._keep
        return [i >= oldest or info.step == self.best for i, info in enumerate(checkpoints)]


def _shapes(state: TrainState) -> dict[str, str]:
    """{path: "float32[3, 5]"} of every array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state._asdict())
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{[*leaf.shape]}"
        for path, leaf in leaves
    }


def _crc32(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _shows_damage(error: BaseException) -> bool:
    """Whether the bytes on the disk are why a checkpoint could not be read.

    Only what is known to come of them counts: one that is taken for damaged is given up for an
    older one, and any other error can be looked into and the run resumed.
    """
    chain = list(_chain(error))
    return any(map(_is_damage, chain)) and not any(map(_is_other, chain))


def _is_damage(error: BaseException) -> bool:
    """Whether it is one that damage brings; an AttributeError only where orbax itself stumbles.

    There it has read a description that makes no sense; elsewhere it is a mistake of ours.
    """
    if not isinstance(error, AttributeError):
        return isinstance(error, _DAMAGE)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith("orbax.")


def _is_other(error: BaseException) -> bool:
    """Whether the error is of the machine, the system or the user: not of the bytes."""
    if not isinstance(error, Exception):
        return True
    if isinstance(error, (MemoryError, OSError, jax.errors.JaxRuntimeError)):
        return not isinstance(error, _MISSING)
    system = {int(number) for number in _SYSTEM_ERROR.findall(str(error))}
    return _OTHER_STATUS.match(str(error)) is not None or not system <= _MISSING_NUMBERS


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _refusal(error: BaseException) -> str | None:
    """What the system said, if it is that which an error is about."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror
    numbers = _SYSTEM_ERROR.findall(str(error))
    return os.strerror(int(numbers[0])) if numbers else None


def _checksum(tree: Any) -> int:
    """A sum of 32 bits that differs if any one element does, however the arrays are sharded.

    Array by array: arrays of one shape share a program, and a program of all takes seconds to
    compile.
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        # One after the other: processes must add up over their devices in the same order.
        total = (total * 0x21F0AAAD + int(_array_sum(leaf))) % 2**32
    return total


@jax.jit
def _array_sum(array: jax.Array) -> jax.Array:
    """[] uint32: every element's bits times an odd number of its own, summed.

    Integers add up to the same in any order.
    """
    bits = jax.lax.bitcast_convert_type(array, np.dtype(f"uint{8 * array.dtype.itemsize}"))
    index = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        index = index * size + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    odd = (index * jnp.uint32(0x9E3779B9) << 1) | 1
    return (bits.astype(jnp.uint32) * odd).sum(dtype=jnp.uint32)
