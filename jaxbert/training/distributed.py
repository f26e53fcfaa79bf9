"""Several processes as one job: how they find each other, agree to stop, and notice a death."""

from __future__ import annotations

import jax
from jax.experimental import multihost_utils

from jaxbert.errors import InputError, LostProcessError

# A process that is not heard of for so long has died, or might as well have: JAX ends the others,
# by SIGABRT and with a message. (Where a sum with the dead fails sooner, it is `LostProcessError`.)
# JAX's own choice is 100.
HEARTBEAT_SECONDS = 30


def start(
    coordinator: str | None = None, processes: int | None = None, index: int | None = None
) -> None:
    """Makes this process one of several; before anything else asks JAX for its devices.

    Args:
      coordinator: "host:port" of process 0.
      processes: how many there are.
      index: which this is, from 0. All three, or none: then they come from the environment (SLURM,
        GKE, TPU pods, Open MPI, or JAX_COORDINATOR_ADDRESS and the like).

    Raises:
      InputError: some are given and some are not; none are, and the environment does not say.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process-index": index}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"missing: {', '.join(missing)} (or leave out all: the cluster says)")
    if index is not None and processes is not None and not 0 <= index < processes:
        raise InputError(f"--process-index {index}: want 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator {coordinator}: want HOST:PORT of process 0")
    try:
        jax.distributed.initialize(
            coordinator, processes, index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:
        if not missing:
            raise
        raise InputError(
            f"--distributed: the environment names no job of several processes ({error}); give "
            f"{', '.join(given)}"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process has come here.

    Args:
      where: the place's name, the same in all.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def is_preempted(step: int) -> bool:
    """Whether any process has been told to end, in all processes after the same step.

    Args:
      step: how many are done; every process must ask after each.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def lost(error: BaseException) -> LostProcessError:
    """What to raise when several processes compute together and one of them gets `error`."""
    return LostProcessError(
        f"process {jax.process_index()} of {jax.process_count()} can no longer work with the "
        f"others, one of them has probably died ({str(error).splitlines()[0]}); look at their "
        "logs, then start all again with --resume"
    )
