"""What a report says of a study's task: its metric in words, its flags, what an adaptation took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxbert.lab.journals import Study
from jaxbert.lab.metric import ACCURACY, FIRST, Metric, metric_of


def scores_are(metric: Metric) -> str:
    """What the numbers of a table are, as a sentence begins.

    Example:
      >>> scores_are(Metric("macro_f1")), scores_are(Metric("mse", False))
      ('Macro f1 in percent', 'Mse, of which less is better')
    """
    name = metric.name.capitalize().replace("_", " ")
    return f"{name} in percent" if metric.in_percent else f"{name}, of which less is better"


def notes(study: Study) -> str:
    """What the words of the claims mean here, and what an adaptation cost; mostly nothing."""
    return "".join(f" {note}" for note in (*_meaning(study.metric), *_costs(study)))


def _meaning(metric: Metric) -> Iterator[str]:
    if metric != ACCURACY:
        gain = "" if metric.in_percent else ", and what is gained is how much less of it there is"
        yield f"Accurate is meant by {metric.name}{gain}."


def _costs(study: Study) -> Iterator[str]:
    for name, about in study.about["strategies"].items():
        cells = (study.cell(size, name).values() for size in study.sizes)
        ends = [run.end for cell in cells for run in cell if "adaptation" in run.end]
        if not ends:
            continue
        how = about["adaptation"]
        before, after = (
            (sum(end["step"] for end in stage), sum(end["seconds"] for end in stage))
            for stage in ([end["adaptation"] for end in ends], ends)
        )
        yield (
            f"{name} begins with masked LM on the training texts, {how['epochs']} epochs with a "
            f"peak of {how['learning_rate']:g}: in {len(ends)} runs {before[0]} updates and "
            f"{before[1]:.0f} s, beside {after[0]} updates and {after[1]:.0f} s of fine-tuning."
        )


def flags(about: Mapping[str, Any]) -> list[str]:
    """Of the command that makes the study or sweep again: what is not so by default.

    Example:
      >>> flags({"task": "text-regression", "task_options": {"stride": 8}, "metric": "mse"})
      ['--task', 'text-regression', '--stride', '8', '--metric', 'mse']
    """
    said = {**FIRST, **about}
    words = ["--task", said["task"]] if said["task"] != FIRST["task"] else []
    for name, value in said["task_options"].items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    if metric_of(said) != ACCURACY:
        words += ["--metric", said["metric"]]
    for row in said.get("strategies", {}).values():
        if how := row.get("adaptation"):
            words += ["--adaptation-rate", f"{how['learning_rate']:g}"]
            words += ["--adaptation-epochs", str(how["epochs"])]
    return words
