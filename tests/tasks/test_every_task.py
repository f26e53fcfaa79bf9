"""Every task of the table takes one step, wherever and in whatever parts and precision it runs."""

import every_task
import numpy as np
import pytest
import task_checks
from tolerance import assert_rounded_alike

from jaxbert.tasks import TASKS

UNITS = 8  # in the batch
ENGINES = ("pmap, accumulated", "mesh")
WAYS = {"text-classification": ()}  # of which test_engines compares whole trainings


@pytest.mark.parametrize("name", TASKS)
def test_one_step_wherever_it_runs(name, tokenizer):
    """Padded on one device is packed, under pmap in parts, and on a mesh; dropout is on.

    And in bfloat16 it is nearly the same.
    """
    task = every_task.task(name, tokenizer)
    length = every_task.MAX_LENGTH.get(name, 16)
    tokenized = task.encode(every_task.examples(name), tokenizer, length)
    model = every_task.network(name, **task_checks.DROPPING)
    loss, count, gradient = task_checks.assert_one_step(
        model, task, tokenized, WAYS.get(name, ENGINES), batch_size=UNITS
    )
    assert count == every_task.counted(name, tokenized, UNITS)

    low = every_task.network(name, "bfloat16", **task_checks.DROPPING)
    rough = task_checks.one_step(low, task, tokenized, "padded", batch_size=UNITS)
    assert rough[1] == count
    assert_rounded_alike(rough[0], loss, layers=1, gradient=False, what="loss")
    assert rough[0] != loss  # it was computed in another precision
    flat = [np.concatenate([leaf.ravel() for leaf in g.values()]) for g in (rough[2], gradient)]
    assert_rounded_alike(*flat, layers=1, gradient=True, what="gradient")


def test_here_is_every_task():
    assert list(every_task.tables()) == list(TASKS)
