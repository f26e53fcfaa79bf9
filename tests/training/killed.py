"""A training run in a process of its own, for tests that kill it; its imports are done once."""

import os
import signal
from pathlib import Path

import orbax.checkpoint  # noqa: F401  what a run imports late: here, the server forks after it
import tiny
import tqdm.contrib.logging  # noqa: F401

from jaxbert.data import load_tokenizer
from jaxbert.errors import LostProcessError, Preempted
from jaxbert.training import distributed

EVERY = 3
SETTINGS = dict(epochs=15, checkpoint_every=EVERY, eval_every=6, evaluation=tiny.CLASSES)


def train(output, tokenizer, programs):
    """Begins, or goes on with, the run in `output`."""
    import jax

    # pytest's way of handling signals is not for a process that is to die of them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    resume = (Path(output) / "run.json").is_file()
    made = tiny.trainer(load_tokenizer(tokenizer), output=output, resume=resume, **SETTINGS)
    made.fit()
    os._exit(0)  # the interpreter's own end takes longer than the run


def train_together(output, tokenizer, programs, address, processes, index, epochs):
    """One of several processes with two devices each; four devices where it is alone."""
    import jax

    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // processes}"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    with open(f"{output}.{index}.log", "w") as log:
        os.dup2(log.fileno(), 2)
    if processes > 1:
        distributed.start(address, processes, index)
    resume = (Path(output) / "run.json").is_file()
    settings = SETTINGS | dict(batch_size=8, epochs=epochs, parallel="mesh", mesh="data=2,fsdp=2")
    made = tiny.trainer(load_tokenizer(tokenizer), output=output, resume=resume, **settings)
    try:
        made.fit()
    except Preempted:
        os._exit(143)
    except LostProcessError as error:
        os.write(2, str(error).encode())
        os._exit(4)
    distributed.wait_for_all("the end")
    os._exit(0)
