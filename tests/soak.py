"""Trains, evaluates and writes checkpoints for a long time, and watches the memory.

python -m tests.soak --minutes 60            # then 1,000 evaluations and 100 trainers
python -m tests.soak --minutes 20 --save     # a line in benchmarks/results/soak.jsonl, soak.png

One process and a tiny model, so that whatever is kept from one step, evaluation, checkpoint or
`Trainer` to the next shows. The slope is a least-squares line through the memory that the process
holds, after the first five minutes (or the first third, if that is less). Status 1 where it, or
what an evaluation or a trainer leaves behind, is beyond LIMITS.
"""

import argparse
import contextlib
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMITS = {
    "slope_mib_per_minute": 1.0, "evaluation_growth_mib": 5.0, "trainer_growth_mib_each": 0.3
}  # fmt: skip
BATCH, COPIES, EVERY = 16, 50, 200  # 650 examples; steps between evaluations
# Steps between checkpoints. Each leaves about 0.06 MiB behind, which is none of ours: tensorstore's
# experimental_collect_matching_metrics, that orbax calls, keeps what it returns (0.1.86).
CHECKPOINTS = 1000
STEPS_PER_SECOND = 600  # more than it does, so that there are epochs enough


def resident_mib():
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Samples:
    """The memory, every so many seconds, while the block runs."""

    def __init__(self, every_seconds):
        self.every, self.minutes, self.resident = every_seconds, [], []
        self._stop = threading.Event()

    def __enter__(self):
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while True:
            self.minutes.append((time.monotonic() - self._began) / 60)
            self.resident.append(resident_mib())
            if self._stop.wait(self.every):
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


def train(tokenizer, output, seconds):
    """One training of so many seconds; how often it did what."""
    from jaxbert.training import Callback

    end, counts = time.monotonic() + seconds, dict.fromkeys(("evaluations", "checkpoints"), 0)

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
    return counts


def _warm(times):
    """How many of them are there to make what all others find."""
    return max(times // 10, 1)


def growth(what, times):
    """[times] MiB that are held more than after the first tenth of them."""
    held = []
    for _ in range(times):
        what()
        held.append(resident_mib())
    gc.collect()
    held[-1] = resident_mib()
    return [value - held[_warm(times) - 1] for value in held]


def soak(minutes, evaluations, trainers, every):
    """A row of all that there was."""
    import jax
    import tiny

    from jaxbert.data import load_tokenizer

    jax.config.update("jax_disable_most_optimizations", True)  # a hundred trainers compile
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
        tokenizer = load_tokenizer(root)
        with Samples(every) as samples:
            counts = train(tokenizer, root / "run", 60 * minutes)
        after = min(5.0, minutes / 3)
        found = slope(samples.minutes, samples.resident, after)
        print(f"{minutes:g} minutes: {counts}; {found:+.3f} MiB a minute after {after:.1f}")
        predictor = make_trainer(tokenizer).predictor
        evaluated = growth(lambda: predictor.evaluate(tiny.CLASSES), evaluations)
        print(f"{evaluations} evaluations: {evaluated[-1]:+.2f} MiB", flush=True)

        def one_more():
            output = root / "short"
            make_trainer(tokenizer, output=output, epochs=1, overwrite=True).fit()

        made = growth(one_more, trainers)
    each = made[-1] / (trainers - _warm(trainers))
    print(f"{trainers} trainers: {made[-1]:+.2f} MiB, {each:+.3f} each", flush=True)
    return {
        "minutes": minutes, **counts, "every_seconds": every, "slope_after_minutes": after,
        "slope_mib_per_minute": round(found, 4),
        "resident_mib": [round(value, 1) for value in samples.resident],
        "evaluated": evaluations, "evaluation_growth_mib": round(evaluated[-1], 2),
        "trainers": trainers, "trainer_growth_mib": [round(value, 1) for value in made],
        "trainer_growth_mib_each": round(each, 3),
    }  # fmt: skip


def draw(row, path):
    """The memory against time, and against the number of trainers."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    resident = row["resident_mib"]
    left.plot(np.arange(len(resident)) * row["every_seconds"] / 60, resident, color="#0072b2")
    left.axvline(row["slope_after_minutes"], color="#999999", linewidth=0.8)
    left.set_title(f"one training: {row['slope_mib_per_minute']:+.2f} MiB a minute", fontsize=10)
    left.set_xlabel("minutes")
    left.set_ylabel("MiB in memory")
    grown = row["trainer_growth_mib"]
    right.plot(np.arange(1, len(grown) + 1), grown, color="#d55e00")
    right.set_title(f"{row['trainers']} trainers", fontsize=10)
    right.set_xlabel("trainers so far")
    right.set_ylabel("MiB more")
    left.set_ylim(bottom=0, top=1.15 * max(resident))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of training (default: 60)")
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--trainers", type=int, default=100)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--save", action="store_true", help="append to the results, and draw them")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    row = soak(args.minutes, args.evaluations, args.trainers, args.every)
    if args.save:
        from benchmarks.results import RESULTS, append_result, environment

        append_result("soak", {**row, **environment()})
        draw(row, RESULTS / "soak.png")
    beyond = [f"{name}: {row[name]} of {most}" for name, most in LIMITS.items() if row[name] > most]
    print(*beyond, sep="\n")
    return int(bool(beyond))


if __name__ == "__main__":
    sys.path += [str(ROOT), str(ROOT / "tests" / "training")]
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    raise SystemExit(main())
