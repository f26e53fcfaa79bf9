"""Studies and sweeps on disk with known numbers, made without training anything."""

import json

from jaxbert.lab.by_example import pack

GROUPS = ["embeddings", "layer_0", "layer_1", "pooler", "head"]
SETTINGS = {"learning_rate": 1e-4, "schedule": "linear"}


def journal(
    path, *, test=0.5, outside=0.6, overlap=0.5, drift=0.1, cka=0.9, rate=1e-4, diverged=False,
    hits=None, network="a0",
):  # fmt: skip
    """One journal; all else follows from these numbers.

    hits: {set: which examples were right}, from which its accuracy follows.
    """
    if hits:
        test, outside = hits["test"].mean(), hits.get("mail", hits["test"]).mean()
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = lambda accuracy: {  # noqa: E731
        "loss": 0.5, "accuracy": accuracy, "macro_f1": accuracy - 0.01,
        "matthews": 2 * accuracy - 1,
    }  # fmt: skip
    peaks = dict.fromkeys(GROUPS, rate)
    start = {"event": "start", "step": 0, "learning_rate": rate, "peak_rates": peaks}
    lines = [start | ({"network": network} if network else {})]
    for step in (1, 2):
        lines.append(
            {"event": "train", "step": step, "loss": 0.7 / step, "grad_norm": 1.0,
             "grad_norms": dict.fromkeys(GROUPS, 0.4), "learning_rate": peaks}
        )  # fmt: skip
    lines.append({"event": "eval", "step": 2, **scores(test)})
    end = {"event": "end", "step": 2, "status": "finished", "seconds": 1.0}
    if diverged:
        nothing = dict.fromkeys(("scores", "drift", "similarity", "neighbour_overlap"))
        end |= {"status": "diverged", "why": "step 2: loss nan", **nothing}
    else:
        layers = {"embeddings": 1.0, "layer_0": cka, "layer_1": cka - 0.1}
        end |= {
            "scores": {"development": scores(test), "test": scores(test), "mail": scores(outside)},
            "drift": dict.fromkeys(GROUPS[:-1], drift),
            "similarity": {"cka": layers, "rsa": layers},
            "neighbour_overlap": overlap,
        }
        if hits:
            end["by_example"] = {n: {"correct": pack(h), "ece": 0.04} for n, h in hits.items()}
    path.write_text("\n".join(map(json.dumps, [*lines, end])) + "\n")


def about(**more):
    described = {"source": "a.csv", "fingerprint": "ab" * 32, "count": 300}
    return {
        "version": 1,
        "labels": ["bad", "good"],
        "in_domain": "films",
        "out_of_domain": ["mail"],
        "data": {"train": described, "test": described, "mail": described},
        "model": {"config": {}},
        "training": {"batch_size": 32, "dtype": "float32"},
        "environment": {"versions": {"jax": "0"}, "device": {"kind": "cpu", "count": 1}},
        **more,
    }


def study(
    directory, strategies, *, sizes=("200",), seeds=3, control="uniform", grid=None, cells=(),
    tried=(), **more,
):  # fmt: skip
    """A study of these strategies.

    cells: {(size, strategy): [a journal's numbers by seed]}. tried: {(size, strategy): {rate:
    [development scores by seed, None = diverged]}}. more: of study.json.
    """
    rows = {
        name: {"about": "", "source": "", "settings": SETTINGS, "tuned": name != "high"}
        for name in strategies
    }
    description = about(
        kind="study", strategies=rows, control=control, seeds=list(range(seeds)), grid=grid,
        sizes={s: {"examples": 300 if s == "full" else int(s), "epochs": 1} for s in sizes},
    ) | more  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.json").write_text(json.dumps(description))
    for (size, name), numbers in dict(cells).items():
        for seed, values in enumerate(numbers):
            if values is not None:
                journal(directory / "runs" / size / name / f"{seed}.jsonl", **values)
    for (size, name), rates in dict(tried).items():
        for rate, scores in rates.items():
            for seed, score in enumerate(scores, start=100):
                path = directory / "grid" / size / name / f"{rate:g}-{seed}.jsonl"
                journal(path, test=score or 0.0, rate=rate, diverged=score is None)
    return directory


def sweep(directory, rates, decays, accuracy):
    """A sweep of one seed; `accuracy` is {(rate, decay): value, None = diverged}."""
    description = about(
        kind="sweep", strategy="discriminative", rates=rates, decays=decays, seeds=[0],
        size={"examples": 200, "epochs": 3},
    )  # fmt: skip
    (directory / "sweep.json").write_text(json.dumps(description))
    for (rate, decay), value in accuracy.items():
        path = directory / "runs" / f"{rate:g}" / f"{decay:g}" / "0.jsonl"
        journal(path, test=value or 0.0, rate=rate, diverged=value is None)
    return directory
