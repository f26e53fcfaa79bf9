"""Journals to one page, with its tables as Markdown and its figures as PNG; knows no jax."""

from __future__ import annotations

import io
from pathlib import Path

from jaxbert.lab import page, plots
from jaxbert.lab.journals import Collection, Study, Sweep, read
from jaxbert.lab.tables import as_plain, markdown, overview, results, sweep_table
from jaxbert.lab.verdicts import judge

PAGE, TABLE = "report.html", "report.md"
_DPI, _DPI_OF_MANY = 130, 80


def write_report(directory: str | Path, output: str | Path) -> Path:
    """Writes report.html, report.md and the figures as PNG into `output`; the page's path.

    Of a plan there is one page; its figures are in it only.

    Raises: as `journals.read`.
    """
    found, output = read(directory), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if isinstance(found, Collection):
        drawn = {
            key: _drawn(plots.layer_figures(study), _DPI_OF_MANY)
            for key, study in found.studies.items()
        }
        text = page.collection_page(found, drawn)
    else:
        figures = (
            plots.study_figures(found) if isinstance(found, Study) else plots.sweep_figures(found)
        )
        images = _drawn(figures, _DPI)
        for name, (_, content) in images.items():
            (output / f"{name}.png").write_bytes(content)
        text = page.study_page(found, images)
    (output / TABLE).write_text(markdown(found) + "\n", encoding="utf-8")
    (output / PAGE).write_text(text, encoding="utf-8")
    return output / PAGE


def _drawn(figures: plots.Figures, dpi: int) -> page.Images:
    images = {}
    for name, (caption, figure) in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=dpi)
        images[name] = (caption, content.getvalue())
    return images


def format_table(directory: str | Path) -> str:
    """The main table as plain text, and the verdicts in a line each."""
    found = read(directory)
    if isinstance(found, Collection):
        text = as_plain(*overview(found))
    else:
        text = as_plain(*(sweep_table(found) if isinstance(found, Sweep) else results(found)))
    if isinstance(found, Study):
        text += "\n" + "\n".join(f"{v.verdict}: {v.claim}" for v in judge(found) if v.parts)
    return text + (f"\n{found.missing} runs are missing" if found.missing else "")
