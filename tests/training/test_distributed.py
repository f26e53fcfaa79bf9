"""Two processes with two devices each, over loopback: one training, one preemption, one death."""

import multiprocessing
import os
import signal
import socket
import time

import killed
import numpy as np
import pytest
import tiny
from tolerance import assert_losses_alike, assert_trained_alike, network_terms

from jaxbert.data import Batches, split_tokens
from jaxbert.models import BertForSequenceClassification, split_model
from jaxbert.training import distributed


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def start_job(tmp_path_factory):
    """(output, processes, epochs) -> the processes of a job."""
    root = tmp_path_factory.mktemp("together")
    (root / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    started = []

    def start(output, processes, epochs):
        address = f"127.0.0.1:{free_port()}"
        jobs = []
        for index in range(processes):
            # Programs of one process and of two differ; so do those of the processes.
            programs = root / f"programs-{processes}-{index}"
            arguments = (output, root, programs, address, processes, index, epochs)
            jobs.append(context.Process(target=killed.train_together, args=tuple(
                value if isinstance(value, int) else str(value) for value in arguments
            )))  # fmt: skip
            jobs[-1].start()
        started.extend(jobs)
        return jobs

    yield start
    for job in started:
        job.kill()


def ends(jobs, seconds=150):
    for job in jobs:
        job.join(seconds)
    return [job.exitcode for job in jobs]


def wait_for_step(output, step, jobs):
    end = time.monotonic() + 150
    while len(tiny.lines(output) if (output / "metrics.jsonl").is_file() else ()) < step:
        assert time.monotonic() < end
        assert all(job.is_alive() for job in jobs)
        time.sleep(0.005)


def saved(output):
    return tiny.leaves(split_model(BertForSequenceClassification.from_pretrained(output))[1])


def test_two_processes_train_as_one_and_stop_together(start_job, tmp_path):
    """The second alone is told to end; both save after the same step, and go on later."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert ends(start_job(one, 1, 40)) == [0]
    jobs = start_job(two, 2, 40)
    wait_for_step(two, 5, jobs)
    os.kill(jobs[1].pid, signal.SIGTERM)
    assert ends(jobs) == [143, 143]
    run = tiny.run_json(two)
    assert run["status"] == "preempted"
    assert 5 <= run["step"] < 80
    assert (two / "checkpoints" / str(run["step"])).is_dir()
    assert ends(start_job(two, 2, 40)) == [0, 0]
    lines = [tiny.lines(output) for output in (one, two)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    losses = [[line["loss"] for line in part] for part in lines]
    terms = network_terms(tiny.model().config, 16, gradient=True)
    assert_losses_alike(losses[1], losses[0], terms=terms, adam=True)
    steps, rate = lines[0][-1]["step"], tiny.ADAMW.learning_rate
    assert_trained_alike(saved(two), saved(one), None, terms=terms, steps=steps, adam_rate=rate)


def test_a_death_ends_the_job(start_job, tmp_path):
    output = tmp_path / "out"
    jobs = start_job(output, 2, 10_000)
    wait_for_step(output, 3, jobs)
    jobs[1].kill()
    jobs[0].join(60)
    # Either the sum with the dead fails and we say it, or nothing more is heard of it and JAX does.
    told = {4: "process 0 of 2 can no longer work with the others", -6: "another task died"}
    assert told[jobs[0].exitcode] in (tmp_path / "out.0.log").read_text()


BAD = {
    "some missing": ((None, 2, None), "missing: --coordinator, --process-index"),
    "index": (("localhost:1234", 2, 2), "--process-index 2: want 0 to 1"),
    "port": (("localhost", 2, 0), "--coordinator localhost: want HOST:PORT"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_jobs_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.start(*given)


def test_without_a_cluster_the_flags_are_named(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(ValueError, match=r"names no job .*give --coordinator, --processes"):
        distributed.start()


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_parts_of_a_batch_make_the_whole(tokenized, layout):
    settings = dict(max_length=16, layout=layout, shuffle=True, row_multiple=4)
    whole = Batches(tokenized, 8, **settings).epoch(1)
    parts = [Batches(tokenized, 8, part=(index, 2), **settings).epoch(1) for index in (0, 1)]
    for batch, *both in zip(whole, *parts, strict=True):
        wanted = split_tokens(batch, batch["input_ids"])
        for part in both:  # what is computed of all rows, each process has for itself
            tokens = split_tokens(part, batch["input_ids"])
            assert tokens.keys() == wanted.keys()
            for place, ids in wanted.items():
                np.testing.assert_array_equal(tokens[place], ids)
        for name, values in batch.items():
            found = [part[name] for part in both]
            if name == "example_ids":
                np.testing.assert_array_equal(found, [values, values])
            else:
                np.testing.assert_array_equal(np.concatenate(found), values)
                assert len(found[0]) == len(found[1])
    with pytest.raises(ValueError, match="row_multiple=4: want a multiple of the parts, 3"):
        Batches(tokenized, 8, part=(0, 3), **settings)
