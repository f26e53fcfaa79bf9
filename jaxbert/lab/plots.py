"""The figures of a report, as matplotlib figures; one colour and marker per strategy everywhere."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxbert.lab.journals import Study, Sweep
from jaxbert.lab.metric import Metric
from jaxbert.lab.records import TEST, Run
from jaxbert.lab.statistics import mean_interval

# Okabe & Ito's colours for every kind of sight, and grey; with markers, for more than eight.
_COLOURS = (
    "#d55e00", "#cc79a7", "#999999", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#000000",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTH = 9.0  # inches

Figures = dict[str, tuple[str, Any]]  # {file stem: (what it shows, figure)}


class Style(NamedTuple):
    """How a strategy is drawn."""

    color: str
    marker: str


def styles(strategies: Sequence[str]) -> dict[str, Style]:
    """{strategy: style}: colours in turn, and another marker each time round."""
    count = len(_COLOURS)
    return {
        name: Style(_COLOURS[i % count], _MARKERS[(i + i // count) % len(_MARKERS)])
        for i, name in enumerate(strategies)
    }


def study_figures(study: Study) -> Figures:
    """All of a study, in the order of the page."""
    score = study.metric.name.capitalize()
    figures = {
        "accuracy": (f"{score} by strategy and train size; every seed is a dot", accuracy(study)),
        "rates": ("Learning rate of each group of layers, step by step", rates(study)),
        **layer_figures(study),
        "domains": (f"{score} in domain and out of domain; every seed is a dot", domains(study)),
        "curves": ("Learning curves, the mean over the seeds whose course is kept", curves(study)),
        "gradients": (
            "Norm of the gradient by group, the mean over the seeds whose course is kept",
            gradients(study),
        ),
    }
    return {name: pair for name, pair in figures.items() if pair[1] is not None}


def layer_figures(study: Study) -> Figures:
    """What happens to each layer."""
    return {
        "peaks": ("Peak learning rate of each group at the largest train size", peaks(study)),
        "drift": (
            "How far each group moved, ||w - w0|| / ||w0||; mean and 95% interval over seeds",
            drift(study),
        ),
        "similarity": (
            "Similarity of each layer to the pre-trained one on neutral text; 1 = unchanged; mean "
            "and 95% interval over seeds",
            similarity(study),
        ),
    }


def sweep_figures(sweep: Sweep) -> Figures:
    """As `study_figures`, of a sweep."""
    metric = sweep.metric
    score = f"Test {metric.name}{', %,' if metric.in_percent else ''}"
    return {"sweep": (f"{score} by learning rate and layer decay", heat_map(sweep))}


def _grid(rows: int, columns: int, height: float, **shared: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _legend(figure: Any, axes: Any) -> None:
    """One legend under the figure, of every label in any of its axes."""
    found: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=min(len(found), 5),
        fontsize=8, frameon=False,
    )  # fmt: skip


def _label(name: str) -> str:
    """A name as it can be drawn, not too long."""
    return _drawn(name if len(name) <= 24 else name[:23] + "…")


def _drawn(text: str) -> str:
    """Text as it can be drawn: no formula."""
    return text.replace("$", r"\$")


def _title(study: Study, size: str) -> str:
    about = study.about["sizes"][size]
    epochs = f"{about['epochs']} epoch" + ("s" if about["epochs"] > 1 else "")
    return f"{about['examples']} examples, {epochs}"


def accuracy(study: Study) -> Any:
    """Dots for the seeds and a bar for the mean with its interval, a panel for each train size."""
    sizes, drawn = study.sizes, styles(study.strategies)
    figure, axes = _grid(1, len(sizes), 3.6, sharey=True)
    for axis, size in zip(axes[0], sizes, strict=True):
        for place, (name, style) in enumerate(drawn.items()):
            scores = _numbers(study.cell(size, name), lambda run: run.score(TEST))
            if not scores:
                inside = axis.get_xaxis_transform()
                axis.text(place, 0.5, "none", ha="center", fontsize=7, transform=inside)
                continue
            found = mean_interval(scores)
            spread = [place + 0.3 * (i / max(1, len(scores) - 1) - 0.5) for i in range(len(scores))]
            axis.scatter(spread, scores, s=16, color=style.color, marker=style.marker, alpha=0.8)
            axis.hlines(found.mean, place - 0.32, place + 0.32, color=style.color, lw=2)
            if found.low is not None:
                axis.vlines(place, found.low, found.high, color=style.color, lw=1)
        axis.set_title(_title(study, size), fontsize=9)
        axis.set_xticks(
            range(len(drawn)), list(map(_label, drawn)), rotation=60, ha="right", fontsize=8
        )
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel(_drawn(f"test {study.metric.name}"), fontsize=9)
    return figure


def _numbers(cell: Mapping[int, Run], value: Callable[[Run], float | None]) -> list[float]:
    return [number for number in map(value, cell.values()) if number is not None]


def _shades(count: int) -> list[Any]:
    """Dark for the input side, bright for the output."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](0.92 * i / max(1, count - 1)) for i in range(count)]


def _panels(count: int) -> tuple[int, int, float]:
    """Rows, columns and height for so many small panels."""
    columns = min(4, count)
    rows = -(-count // columns)
    return rows, columns, 1.4 + 1.7 * rows


def _small_multiples(
    study: Study, size: str, value: Callable[..., float | None], label: str
) -> Any:
    """A panel for each strategy, a line for each group, over the steps of one train size.

    value: of a line of a journal and, as `group`, a group of parameters.
    """
    names = [name for name in study.strategies if study.cell(size, name)]
    rows, columns, height = _panels(len(names))
    figure, axes = _grid(rows, columns, height, sharex=True, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        runs = list(study.cell(size, name).values())
        groups = list(runs[0].start["peak_rates"])
        for group, shade in zip(groups, _shades(len(groups)), strict=True):
            steps, means = _mean_curve(runs, functools.partial(value, group=group))
            if steps:
                axis.plot(steps, means, color=shade, lw=1.2, label=group)
        axis.set_title(_label(name), fontsize=9)
        axis.set_yscale("log")
        axis.grid(alpha=0.2)
    for row in axes:
        row[0].set_ylabel(label, fontsize=8)
    for axis in axes.flat[max(0, len(names) - columns) : len(names)]:
        axis.set_xlabel("step", fontsize=8)
        axis.xaxis.set_tick_params(labelbottom=True)
    figure.suptitle(_title(study, size), fontsize=9)
    _legend(figure, axes)
    return figure


def _mean_curve(
    runs: Sequence[Run], value: Callable[[Mapping[str, Any]], float | None]
) -> tuple[list[int], list[float]]:
    """Steps, and the mean over the runs that reached them."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for line in run.train:
            number = value(line)
            if number:  # a logarithm's axis has no zero
                found.setdefault(line["step"], []).append(number)
    steps = sorted(found)
    return steps, [statistics.mean(found[step]) for step in steps]


def rates(study: Study) -> Any:
    """Learning rates at the largest train size."""
    return _small_multiples(
        study, study.sizes[-1], lambda line, group: line["learning_rate"].get(group), "rate"
    )


def peaks(study: Study) -> Any:
    """Peak rates of every strategy and group: a heat map, on a logarithm's scale."""
    from matplotlib.colors import LogNorm

    size = study.sizes[-1]
    found = {
        name: next(iter(cell.values())).start.get("peak_rates", {})
        for name in study.strategies
        if (cell := study.cell(size, name))
    }
    groups = list(next(iter(found.values())))
    figure, axes = _grid(1, 1, 1.3 + 0.32 * len(found))
    shown = [[rates.get(group) or float("nan") for group in groups] for rates in found.values()]
    flat = [rate for row in shown for rate in row if rate == rate]  # a frozen group has none
    scale = LogNorm(min(flat), max(max(flat), 1.01 * min(flat)))
    image = axes[0][0].imshow(shown, cmap="cividis", aspect="auto", norm=scale)
    middle = (min(flat) * max(flat)) ** 0.5
    for y, row in enumerate(shown):
        for x, rate in enumerate(row):
            text = "0" if rate != rate else f"{rate:.2g}"
            color = "white" if rate < middle else "black"
            axes[0][0].text(x, y, text, ha="center", va="center", fontsize=7, color=color)
    axes[0][0].set_xticks(range(len(groups)), groups, rotation=60, ha="right", fontsize=7)
    axes[0][0].set_yticks(range(len(found)), list(map(_label, found)), fontsize=8)
    axes[0][0].set_title(_title(study, size), fontsize=9)
    figure.colorbar(image, ax=axes[0][0], fraction=0.03).ax.tick_params(labelsize=7)
    return figure


def gradients(study: Study) -> Any:
    """Gradient norms at the largest train size."""
    return _small_multiples(
        study, study.sizes[-1], lambda line, group: line["grad_norms"].get(group), "norm"
    )


def _by_layer(
    study: Study, values: Callable[[Run], Mapping[str, float] | None], axes: Sequence[Any]
) -> None:
    """Lines over the groups of layers, the mean over seeds, one axis for each train size."""
    for axis, size in zip(axes, study.sizes, strict=True):
        for name, style in styles(study.strategies).items():
            runs = study.cell(size, name).values()
            found = [v for run in runs if (v := values(run)) is not None]
            if found:
                groups = list(found[0])
                known = [mean_interval([v[g] for v in found]) for g in groups]
                means = [interval.mean for interval in known]
                axis.plot(groups, means, color=style.color, marker=style.marker, ms=4, lw=1.2,
                          label=_label(name))  # fmt: skip
                # A logarithm's axis has no zero, nor less.
                lows = [max(mean / 10, i.low or mean) for mean, i in zip(means, known, strict=True)]
                highs = [i.high or mean for mean, i in zip(means, known, strict=True)]
                axis.fill_between(groups, lows, highs, color=style.color, alpha=0.12, lw=0)
                axis.set_xticks(range(len(groups)), groups, rotation=60, ha="right", fontsize=7)
        axis.grid(alpha=0.3)
        axis.set_title(_title(study, size), fontsize=9)


def drift(study: Study) -> Any:
    """Relative distance of each group's weights from where they began."""
    figure, axes = _grid(1, len(study.sizes), 3.9, sharey=True)
    _by_layer(study, lambda run: run.end["drift"], axes[0])
    axes[0][0].set_yscale("log")
    axes[0][0].set_ylabel("||w - w0|| / ||w0||", fontsize=9)
    _legend(figure, axes)
    return figure


def _similarity(run: Run, kind: str) -> Mapping[str, float] | None:
    return (run.end["similarity"] or {}).get(kind)


def similarity(study: Study) -> Any:
    """CKA above, RSA below."""
    figure, axes = _grid(2, len(study.sizes), 6.4, sharey="row", sharex=True)
    for row, kind in zip(axes, ("cka", "rsa"), strict=True):
        _by_layer(study, functools.partial(_similarity, kind=kind), row)
        row[0].set_ylabel({"cka": "linear CKA", "rsa": "RSA"}[kind], fontsize=9)
    for axis in axes[1]:
        axis.set_title("")
    _legend(figure, axes)
    return figure


def domains(study: Study) -> Any:
    """In-domain accuracy against the mean out-of-domain accuracy; None without such data."""
    if not study.out_of_domain:
        return None
    figure, axes = _grid(1, len(study.sizes), 3.9)
    for axis, size in zip(axes[0], study.sizes, strict=True):
        for name, style in styles(study.strategies).items():
            runs = [run for run in study.cell(size, name).values() if not run.diverged]
            axis.scatter(
                [run.score(TEST) for run in runs], [run.out_of_domain for run in runs],
                s=22, color=style.color, marker=style.marker, alpha=0.85, label=_label(name),
            )  # fmt: skip
        axis.set_title(_title(study, size), fontsize=9)
        axis.set_xlabel(_drawn(f"test {study.metric.name} in domain"), fontsize=8)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(_drawn(f"mean {study.metric.name} out of domain"), fontsize=9)
    _legend(figure, axes)
    return figure


def curves(study: Study) -> Any:
    """Training loss above, the score on the development set below."""
    figure, axes = _grid(2, len(study.sizes), 5.6, sharey="row", sharex="col")
    metric, first = study.metric, []
    for column, size in enumerate(study.sizes):
        for name, style in styles(study.strategies).items():
            runs = list(study.cell(size, name).values())
            steps, losses = _mean_curve(runs, lambda line: line["loss"])
            axes[0][column].plot(steps, losses, color=style.color, lw=1.2, label=_label(name))
            first += losses[:1]
            found: dict[int, list[float]] = {}
            for run in runs:
                for line in run.evaluations:
                    score = metric.share(line[metric.name])
                    found.setdefault(line["step"], []).append(score)
            means = [statistics.mean(values) for values in found.values()]
            axes[1][column].plot(
                list(found), means, color=style.color, marker=style.marker, ms=4, lw=1.2
            )
        axes[0][column].set_title(_title(study, size), fontsize=9)
        axes[1][column].set_xlabel("step", fontsize=8)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    # A loss that explodes would flatten all others.
    axes[0][0].set_ylim(0, max(1.2, 1.5 * min(first, default=0)))
    axes[0][0].set_ylabel("training loss", fontsize=9)
    axes[1][0].set_ylabel(_drawn(f"development {metric.name}"), fontsize=9)
    _legend(figure, axes)
    return figure


def heat_map(sweep: Sweep) -> Any:
    """Mean test accuracy in a cell for each rate and decay; failed runs are counted in it."""
    rates, decays = sweep.about["rates"], sweep.about["decays"]
    figure, axes = _grid(1, 1, 0.9 + 0.55 * len(rates))
    axis = axes[0][0]
    metric = sweep.metric
    cells = [[_cell(sweep.runs[rate, decay], metric) for decay in decays] for rate in rates]
    shown = [[float("nan") if mean is None else mean for mean, _ in row] for row in cells]
    axis.imshow(shown, cmap="cividis", aspect="auto")
    middle = _middle([mean for row in cells for mean, _ in row if mean is not None])
    for y, row in enumerate(cells):
        for x, (mean, text) in enumerate(row):
            dark = mean is not None and mean < middle
            axis.text(
                x, y, text, ha="center", va="center", fontsize=9, color="white" if dark else "black"
            )
    axis.set_xticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    axis.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set_xlabel("layer decay", fontsize=9)
    axis.set_ylabel("learning rate", fontsize=9)
    return figure


def _cell(runs: Mapping[int, Run], metric: Metric) -> tuple[float | None, str]:
    """(mean score, what the cell says)."""
    scores = _numbers(runs, lambda run: run.score(TEST))
    failed = sum(run.failed for run in runs.values())
    note = f"\n{failed} of {len(runs)} failed" if failed else ""
    if not scores:
        return None, "not run" if not runs else f"diverged{note}"
    mean = statistics.mean(scores)
    return mean, f"{metric.show(mean)}{note}"


def _middle(values: Sequence[float]) -> float:
    return (min(values) + max(values)) / 2 if values else 0.0
