"""What is there of a trainer when it is gone."""

import gc
import os
import threading

import jax
import tiny


def counts():
    """How many there are of what could be kept by mistake; compiled programs by jax's own class."""
    gc.collect()
    kinds = [type(found).__name__ for found in gc.get_objects()]
    return {
        "programs": kinds.count("MeshExecutable"),
        "trainers": kinds.count("Trainer"),
        "arrays": len(jax.live_arrays()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/dev/fd")),
    }


def test_a_trainer_leaves_no_program_array_thread_or_file_behind(tokenizer, tmp_path):
    network = tiny.model()

    def one():
        trainer = tiny.trainer(
            tokenizer, output=tmp_path / "run", network=network, evaluation=tiny.CLASSES, epochs=1,
            batch_size=13, layout="padded", overwrite=True, programs={},
        )  # fmt: skip
        assert trainer.fit()["status"] == "finished"
        return counts()

    during = one()  # and makes what all others find
    assert during["trainers"] > 0
    before = counts()
    assert one()["programs"] > before["programs"]
    one()
    assert counts() == before
