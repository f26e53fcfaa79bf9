"""Kills `jaxbert finetune` at random moments, and compares what it ends with.

python -m tests.faults.kills --times 50           # shared by two tasks and two engines
python -m tests.faults.kills --times 5 --task token-classification --engine mesh --seed 7

A job is one process, or two with a mesh of both. It is killed by SIGKILL: while it starts, between
steps, at one of its writes, at one of the last of them (the model, its card, run.json); a job of
two one process after the other. Then the same command goes on with --resume, or begins anew where
there is nothing yet to resume, until it ends by itself: with the same files, losses, scores and
state of the optimizer as a job that nobody has killed, bit for bit. Status 1 where it did not;
--save adds a line for each task and engine to benchmarks/results/kills.jsonl.
"""

import argparse
import collections
import itertools
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PLACES = [str(ROOT), str(ROOT / "tests" / "training")]
TASKS = ("text-classification", "token-classification")
ENGINES = {"jit": 1, "mesh": 2}  # processes of a job
EPOCHS, BATCH, EVERY = 6, 4, 3  # 13 examples: 24 steps
PLACE_WORDS = ("film", "plot", "cast", "music", "end", "story")
ENDS = {-9, 0, 4, -6}  # of a job that is killed: the other process may notice before its turn
SECONDS = 240  # for a job: more is a hang


class Files:
    """A model, and data of a task, below `root`."""

    def __init__(self, root, task):
        import tiny

        root.mkdir()
        self.model, self.task = root / "model", task
        tiny.encoder().save_pretrained(self.model)
        (self.model / "vocab.txt").write_text("\n".join(tiny.WORDS))
        if task == "text-classification":
            rows = [f"{text},{'pn'[label]}" for text, label in zip(tiny.TEXTS, tiny.LABELS)]  # noqa: B905
            self.data, content = root / "films.csv", "\n".join(["text,label", *rows])
        else:
            rows = ["\n".join(map(_tagged, text.split())) for text in tiny.TEXTS]
            self.data, content = root / "films.conll", "\n\n".join(rows)
        self.data.write_text(content + "\n")

    def arguments(self, output):
        """Of the whole command; those of the engine, and of the job, not among them."""
        flags = {
            "model": self.model, "task": self.task, "train": self.data, "eval": self.data,
            "output": output, "epochs": EPOCHS, "batch-size": BATCH, "max-length": 16,
            "checkpoint-every": EVERY, "eval-every": 2 * EVERY, "log-every": 1,
            "learning-rate": 1e-3, "seed": 5,
        }  # fmt: skip
        return [*itertools.chain.from_iterable((f"--{k}", str(v)) for k, v in flags.items())]


def _tagged(word):
    return f"{word}\t{'B-part' if word in PLACE_WORDS else 'O'}"


class Job:
    """The processes of a fine-tuning that goes on in `output`, or begins there.

    Args:
      root: of logs, events and caches.
    """

    def __init__(self, files, engine, output, root):
        from tests.faults import command

        processes, self.output, self.root = ENGINES[engine], output, root
        begun = (output / "finetune.json").is_file()
        argv = ["--resume", "--output", str(output)] if begun else files.arguments(output)
        if processes > 1:
            argv += ["--distributed", "--coordinator", f"127.0.0.1:{_free_port()}"]
            argv += ["--processes", str(processes)]
            argv += [] if begun else ["--parallel", "mesh", "--mesh", f"fsdp={processes}"]
        self._drafts, self._events = self._half_written(), root / "events.txt"
        self._events.write_bytes(b"")
        self.processes = []
        for index in range(processes):
            own = ["--process-index", str(index)] if processes > 1 else []
            events = self._events if index == 0 else os.devnull
            places = (output, events, root / f"log-{index}.txt", root / f"cache-{index}")
            arguments = (["finetune", *argv, *own], *map(str, places))
            self.processes.append(_context().Process(target=command.run, args=arguments))
            self.processes[-1].start()

    def events(self):
        """[(what, of what)] of the first process, so far: its steps and its changes of files."""
        lines = self._events.read_text().split("\n")[:-1]
        return [tuple(line.split(" ", 1)) for line in lines]

    def wait_for(self, condition):
        """Until the events are such, or it has ended: then False."""
        end = time.monotonic() + SECONDS
        while all(process.is_alive() for process in self.processes):
            if condition(self.events()):
                return True
            if time.monotonic() > end:
                raise TimeoutError(f"{self.output}: it goes on for more than {SECONDS} s")
            time.sleep(0.001)
        return False

    def kill(self, rng):
        """One process after the other, as whoever ends a job does."""
        for process in rng.sample(self.processes, len(self.processes)):
            process.kill()
            time.sleep(rng.uniform(0, 0.05) if len(self.processes) > 1 else 0)

    def end(self):
        """The statuses."""
        for process in self.processes:
            process.join(SECONDS)
        statuses = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return statuses

    def half_written(self):
        """The names of what this job, killed, has left unfinished."""
        return [name for path, name in self._half_written().items() if path not in self._drafts]

    def _half_written(self):
        from tests.faults.command import DRAFT, name_of

        found = {path: name_of(path.name) for path in self.output.glob(".*.tmp")
                 if DRAFT.fullmatch(path.name)}  # fmt: skip
        left = self.output.glob("checkpoints/*orbax-checkpoint-tmp*")
        return found | dict.fromkeys(left, "checkpoint")


def _context():
    context = multiprocessing.get_context("forkserver")
    # Where the server that processes are forked from looks for what it imports once for all.
    path = os.environ.get("PYTHONPATH", "")
    if PLACES[0] not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([*PLACES, path])
    context.set_forkserver_preload(["tests.faults.command"])
    return context


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Moments:
    """When to kill a job, drawn from what an undisturbed one does.

    Args:
      events: of such a one.
    """

    KINDS = ("start", "step", "write", "end")

    def __init__(self, events, rng):
        self._rng, self._writes = rng, sum(map(_is_write, events))
        trained = [i for i, event in enumerate(events) if event[0] == "train"]
        self.steps = len(trained)
        self._last = sum(map(_is_write, events[trained[-1] :]))

    def wait(self, job, kind):
        """Until it is there; False where the job has ended before."""
        draw = self._rng
        if kind == "start":
            time.sleep(draw.uniform(0, 4))
            return all(process.is_alive() for process in job.processes)
        if kind == "step":
            step, delay = draw.randint(1, self.steps), draw.uniform(0, 0.1)
            found = job.wait_for(lambda events: any(_step(event) >= step for event in events))
        elif kind == "write":
            count, delay = draw.randrange(self._writes), draw.uniform(0, 0.003)
            found = job.wait_for(lambda events: sum(map(_is_write, events)) > count)
        else:
            count, delay = draw.randrange(self._last), draw.uniform(0, 0.003)
            found = job.wait_for(lambda events: self._after_the_last_step(events) > count)
        time.sleep(delay)
        return found

    def _after_the_last_step(self, events):
        last = [i for i, event in enumerate(events) if _step(event) == self.steps]
        return sum(map(_is_write, events[last[0] :])) if last else 0


def _is_write(event):
    return event[0] not in ("train", "eval")


def _step(event):
    return int(event[1]) if event[0] == "train" else 0


def outcome(output):
    """{what: value} of a finished run, all that does not depend on the clock."""
    import tiny

    run = tiny.run_json(output)
    found = {name: run[name] for name in ("status", "step", "best", "evaluations", "scores")}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "README.md"):
        found[name] = (output / name).read_bytes()
    last = output / "checkpoints" / str(run["step"]) / "contents" / "metadata"
    found["state"] = json.loads(last.read_text())["sum"]  # of the optimizer's arrays too
    return found | {"metrics.jsonl": tiny.lines(output)}


def campaign(task, engine, times, seed, root, kinds=Moments.KINDS):
    """Kills jobs so many times; a row of what there was.

    Args:
      kinds: of moments, taken in turn.
    """
    root.mkdir()
    files, rng, began = Files(root / "files", task), random.Random(seed), time.monotonic()
    whole = Job(files, engine, root / "whole", root)
    if any(whole.end()):
        raise RuntimeError(f"undisturbed it fails:\n{_last_words(root)}")
    wanted, moments = outcome(root / "whole"), Moments(whole.events(), rng)
    landed, half, findings = collections.Counter(), collections.Counter(), []
    turn, kills, runs = itertools.cycle(kinds), 0, 0
    while kills < times and not findings:
        runs, output = runs + 1, root / f"run-{runs}"
        while True:
            job = Job(files, engine, output, root)
            killed = kills < times and moments.wait(job, next(turn))
            if killed:
                job.kill(rng)
            statuses = job.end()
            if not any(statuses):
                break
            if not (killed and -9 in statuses and set(statuses) <= ENDS):
                findings.append(f"run {runs}: status {statuses}: {_last_words(root)}")
                break
            kills += 1
            last = (job.events() or [("start", "start")])[-1]
            landed[last[1] if _is_write(last) else "between steps"] += 1
            half.update(job.half_written())
        if not findings:
            ended = outcome(output)
            differ = [name for name, value in wanted.items() if ended[name] != value]
            findings += [f"run {runs} ends with another {', '.join(differ)}"] if differ else []
    return {
        "task": task, "engine": engine, "processes": ENGINES[engine], "seed": seed,
        "steps": moments.steps, "kills": kills, "runs": runs, "landed": dict(landed),
        "half_written": dict(half), "equal": not findings, "findings": findings,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _last_words(root):
    logs = [path.read_text()[-1500:] for path in sorted(root.glob("log-*.txt"))]
    return "\n".join(logs)


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m tests.faults.kills", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--times", type=int, default=50, help="kills in all (default: 50)")
    parser.add_argument("--task", action="append", choices=TASKS, help="repeatable")
    parser.add_argument("--engine", action="append", choices=[*ENGINES], help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="append the totals to the results")
    args = parser.parse_args()
    pairs = [*itertools.product(args.task or TASKS, args.engine or ENGINES)]
    bad = 0
    for place, (task, engine) in enumerate(pairs):
        times = (args.times + place) // len(pairs)
        with tempfile.TemporaryDirectory() as directory:
            row = campaign(task, engine, times, args.seed, Path(directory).resolve() / "kills")
        bad += not row["equal"]
        where = ", ".join(f"{name} {count}" for name, count in sorted(row["landed"].items()))
        print(f"{task:22}{engine:6}{row['kills']:4} kills {row['runs']:4} runs  "
              f"{'equal' if row['equal'] else 'DIFFERENT'}  {row['seconds']:6.1f} s  at {where}",
              flush=True)  # fmt: skip
        for line in row["findings"]:
            print(f"  {line}")
        if args.save:
            from benchmarks.results import append_result, environment

            append_result("kills", {**row, **environment()})
    return int(bad > 0)


if __name__ == "__main__":
    sys.path += PLACES
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    raise SystemExit(main())
