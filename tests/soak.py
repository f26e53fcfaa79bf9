"""Trains, evaluates and writes checkpoints for a long time, and watches the memory.

python -m tests.soak --minutes 60                # then 1,000 evaluations and 100 trainers
python -m tests.soak --minutes 0 --trainers 20   # or some of it
python -m tests.soak --journal FILE --save       # a line in benchmarks/results/soak.jsonl, soak.png
python -m tests.soak --read FILE --save          # of a run that was killed

One process and a tiny model, so that whatever is kept from one step, evaluation, checkpoint or
`Trainer` to the next shows. The slope is a least-squares line through the memory that the process
holds, after the first five minutes (or the first third, if that is less); an evaluation and a
trainer leave behind what is there at the end and was not after the first tenth of them, divided by
their number. Status 1 where one of them is beyond LIMITS.
"""

import argparse
import contextlib
import ctypes
import functools
import gc
import json
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# MiB a minute, and each. Of a trainer 0.1 is in caches of jax, and some in holes between.
LIMITS = {"training": 1.0, "evaluations": 0.005, "trainers": 0.3}
BATCH, COPIES, EVERY = 16, 50, 200  # 650 examples; steps between evaluations
# Steps between checkpoints. Each leaves about 0.06 MiB behind, which is none of ours: tensorstore's
# experimental_collect_matching_metrics, that orbax calls, keeps what it returns (0.1.86).
CHECKPOINTS = 1000
STEPS_PER_SECOND = 600  # more than it does, so that there are epochs enough


def resident_mib():
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _MallInfo(ctypes.Structure):
    """glibc's `mallinfo2`, of which two numbers are wanted."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def allocated_mib():
    """What is allocated of that, and not only kept by glibc for whoever asks next; 0 elsewhere."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return 0.0
    library.mallinfo2.restype = _MallInfo
    info = library.mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


class Journal:
    """What has been seen so far: lines of JSON, on the disk at once, for the run may be killed.

    Args:
      path: is begun anew. None = kept in memory alone.
    """

    def __init__(self, path):
        self.lines, self._path = [], path
        if path is not None:
            path.write_text("", encoding="utf-8")

    def add(self, what, **values):
        """One line: what it is of, what this process holds, and the values."""
        line = {"what": what, **values, "mib": round(resident_mib(), 2)}
        line["allocated_mib"] = round(allocated_mib(), 2)
        self.lines.append(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Samples:
    """A line of the journal every so many seconds, while the block runs, with the counts so far."""

    def __init__(self, journal, every_seconds, counts):
        self._journal, self._every, self._counts = journal, every_seconds, counts
        self._stop = threading.Event()

    def __enter__(self):
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while True:
            minute = round((time.monotonic() - self._began) / 60, 4)
            self._journal.add("training", minute=minute, **self._counts)
            if self._stop.wait(self._every):
                return


def slope(minutes, values, after):
    """Of the least-squares line through the values from that minute on, a minute.

    Example:
      >>> round(slope([0, 1, 2, 3], [50, 10, 12, 14], after=1), 6)
      2.0
    """
    import numpy as np

    minutes, values = np.array(minutes), np.array(values)
    there = minutes >= after
    return float(np.polyfit(minutes[there], values[there], 1)[0]) if there.sum() > 1 else 0.0


class OverError(Exception):
    """The time of a training is up."""


def make_trainer(tokenizer, **settings):
    """Of a model of its own, in a program cache of its own, as whoever makes many does."""
    import numpy as np
    import tiny

    films = tiny.CLASSES
    many = films.take(np.tile(np.arange(len(films)), COPIES))
    defaults = dict(batch_size=BATCH, evaluation=films, log_every=50, programs={})
    return tiny.trainer(tokenizer, train=many, **(defaults | settings))


def train(tokenizer, output, seconds, counts):
    """One training of so many seconds; `counts` says how often it did what."""
    from jaxbert.training import Callback

    end = time.monotonic() + seconds

    class Clock(Callback):
        def on_log(self, step, values):
            counts["steps"] = step
            if time.monotonic() > end:
                raise OverError

        def on_evaluate(self, step, scores):
            counts["evaluations"] += 1

        def on_checkpoint(self, step, directory):
            counts["checkpoints"] += 1

    epochs = 1 + int(seconds * STEPS_PER_SECOND * BATCH / (13 * COPIES))
    trainer = make_trainer(
        tokenizer, output=output, epochs=epochs, eval_every=EVERY, checkpoint_every=CHECKPOINTS,
        callbacks=[Clock()],
    )  # fmt: skip
    with contextlib.suppress(OverError):
        trainer.fit()


def repeat(journal, what, times, do):
    """A line of the journal after each of so many times."""
    for number in range(1, times + 1):
        do()
        if number == times:
            gc.collect()
        journal.add(what, number=number)


def soak(journal, minutes, evaluations, trainers, every):
    """All that there is to do."""
    import jax
    import tiny

    from jaxbert.data import load_tokenizer

    jax.config.update("jax_disable_most_optimizations", True)  # a hundred trainers compile
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
        tokenizer = load_tokenizer(root)
        if minutes:
            counts = dict.fromkeys(("steps", "evaluations", "checkpoints"), 0)
            with Samples(journal, every, counts):
                train(tokenizer, root / "run", 60 * minutes, counts)
        predictor = make_trainer(tokenizer).predictor
        repeat(journal, "evaluation", evaluations, lambda: predictor.evaluate(tiny.CLASSES))

        def one_more():
            output = root / "short"
            make_trainer(tokenizer, output=output, epochs=1, overwrite=True).fit()

        repeat(journal, "trainer", trainers, one_more)


def summary(lines):
    """{part: what there is to say of it} of a journal, which may have ended early.

    Example:
      >>> lines = [{"what": "trainer", "mib": mib} for mib in (50.0, 70.0, 71.0, 72.0)]
      >>> summary(lines)["trainers"]["mib_each"]
      1.0
    """
    parts = {}
    if training := [line for line in lines if line["what"] == "training"]:
        minutes, held = [line["minute"] for line in training], [line["mib"] for line in training]
        after = min(5.0, minutes[-1] / 3)
        counts = {name: training[-1][name] for name in ("steps", "evaluations", "checkpoints")}
        parts["training"] = {
            "minutes": minutes, "mib": held, **counts, "after_minutes": round(after, 2),
            "mib_per_minute": round(slope(minutes, held, after), 4),
        }  # fmt: skip
    for what in ("evaluation", "trainer"):
        held = [line["mib"] for line in lines if line["what"] == what]
        warm = max(len(held) // 10, 2)  # how many make what all others find
        if len(held) > warm:
            each = (held[-1] - held[warm - 1]) / (len(held) - warm)
            allocated = [line.get("allocated_mib", 0.0) for line in lines if line["what"] == what]
            more = (allocated[-1] - allocated[warm - 1]) / (len(held) - warm)
            parts[f"{what}s"] = {
                "times": len(held), "mib": held, "warm": warm, "mib_each": round(each, 4),
                "allocated_mib": allocated, "allocated_mib_each": round(more, 4),
            }  # fmt: skip
    return parts


def told(parts):
    """A line for each part, which says so where it is beyond LIMITS."""
    lines = []
    for name, part in parts.items():
        found = part.get("mib_per_minute", part.get("mib_each"))
        unit = "a minute" if name == "training" else "each"
        beyond = f", BEYOND {LIMITS[name]}" if found > LIMITS[name] else ""
        lines.append(f"{name}: {found:+.4f} MiB {unit}{beyond}")
    return lines


def draw(parts, path):
    """The memory against time, and against the number of trainers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if training := parts.get("training"):
        left.plot(training["minutes"], training["mib"], color="#0072b2")
        left.axvline(training["after_minutes"], color="#999999", linewidth=0.8)
        left.set_title(f"one training: {training['mib_per_minute']:+.2f} MiB a minute", fontsize=10)
        left.set_ylim(bottom=0, top=1.15 * max(training["mib"]))
    if trainers := parts.get("trainers"):
        numbers = range(1, trainers["times"] + 1)
        right.plot(numbers, trainers["mib"], color="#d55e00", label="held")
        right.plot(numbers, trainers["allocated_mib"], color="#009e73", label="allocated of it")
        right.legend(fontsize=8, frameon=False)
        right.set_title(f"{trainers['times']} trainers: {trainers['mib_each']:+.2f} each",
                        fontsize=10)  # fmt: skip
        right.set_ylim(bottom=0, top=1.15 * max(trainers["mib"]))
    left.set_xlabel("minutes")
    right.set_xlabel("trainers so far")
    for axis in (left, right):
        axis.set_ylabel("MiB in memory")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def save(parts):
    """Adds them to the results, and draws the newest of each."""
    from benchmarks.results import RESULTS, append_result, environment, read_results

    append_result("soak", {**parts, **environment()})
    draw(functools.reduce(dict.__or__, read_results("soak")), RESULTS / "soak.png")


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of training (default: 60)")
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--trainers", type=int, default=100)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--journal", type=Path, help="keep every sample here, as it is taken")
    parser.add_argument("--read", type=Path, help="no run: what a journal says, perhaps of a kill")
    parser.add_argument("--save", action="store_true", help="append to the results, and draw them")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.read:
        lines = [json.loads(line) for line in args.read.read_text(encoding="utf-8").splitlines()]
    else:
        journal = Journal(args.journal)
        soak(journal, args.minutes, args.evaluations, args.trainers, args.every)
        lines = journal.lines
    parts = summary(lines)
    lines = told(parts)
    print(*lines, sep="\n")
    if args.save:
        save(parts)
    return int(any("BEYOND" in line for line in lines))


if __name__ == "__main__":
    sys.path += [str(ROOT), str(ROOT / "tests" / "training")]
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    raise SystemExit(main())
