"""The directory of a run: what in it is a run's, what is refused, and how one replaces another.

A run that is to replace another is written to `unfinished/` in the same directory, and takes the
other's place when it is finished. Until then the model that was there stays what it was, whatever
becomes of the new one. Imports no jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxbert.atomic import write_text
from jaxbert.errors import InputError
from jaxbert.optim.config import OptimizerConfig
from jaxbert.training.config import SETTINGS
from jaxbert.weights.directory import CONFIG
from jaxbert.weights.json_files import read_json
from jaxbert.weights.writer import INDEX, SINGLE

RUN, METRICS, EVENTS, CHECKPOINTS = "run.json", "metrics.jsonl", "tensorboard", "checkpoints"
CARD = "README.md"
PREPARED = "prepared"  # status of a run without a step: nothing is lost by starting it again
UNFINISHED = "unfinished"  # a run on its way to replace the one beside it
LOCK = "run.lock"
_READY = "ready.json"  # in `unfinished`: it is complete, and consists of the names that stand here

# What a resumed run may be told anew: it changes what is written, and no number of the training.
_FREE = ("log_every", "checkpoint_every", "keep_checkpoints", "parallel", "mesh", "platform")

_DRAFT = r"\..+\.[0-9a-f]{8}\.tmp"  # what a crash leaves of `atomic.replacing`, or of a lock

# What a run writes, by patterns of whole names; a tokenizer's files are those of any kind.
_FILES = (
    *map(re.escape, (RUN, METRICS, CARD, SETTINGS, LOCK, CONFIG, SINGLE, INDEX, _READY)),
    r"model-\d{5}-of-\d{5}\.safetensors",
    r"tokenizer\.(json|model)|(tokenizer_config|special_tokens_map|added_tokens)\.json",
    r"vocab\.(txt|json)|merges\.txt|(spiece|sentencepiece\.bpe)\.model|chat_template\.jinja",
    _DRAFT,
)
_FOLDERS = {
    EVENTS: r"events\.out\.tfevents\..+",
    CHECKPOINTS: r"\d+(\.damaged|\.orbax-checkpoint-tmp.*)?",
}
_FILE = re.compile("|".join(f"(?:{pattern})" for pattern in _FILES))


def check(output: Path, *, overwrite: bool) -> None:
    """That a new run may be written there; changes nothing.

    Args:
      overwrite: a run that is there is to be replaced.

    Raises:
      FileExistsError: it is a file, holds a run that is to stay, or what no run has written.
    """
    refuse_file(output)
    # Drafts: a run that was killed before its first file, other processes that ask for the lock.
    if not output.exists() or all(map(_is_nothing, output.iterdir())):
        return
    if not (output / RUN).is_file():
        name = next(iter(sorted(foreign(output))), None)
        shown = f" ({name} for one)" if name else ""
        raise FileExistsError(
            f"output {output} holds files that are no run{shown}; name another directory"
        )
    if overwrite:
        strange = sorted(foreign(output))
        if strange:
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise FileExistsError(
                f"output {output} holds {strange[0]}{more}, which no run has written: move it "
                "elsewhere, or name another directory"
            )
    elif not _is_prepared(output):
        raise FileExistsError(
            f"output {output} holds another run; name another directory, continue it with "
            "--resume, or replace it with --overwrite"
        )


def _is_nothing(path: Path) -> bool:
    return path.name == LOCK or re.fullmatch(_DRAFT, path.name) is not None


def refuse_file(output: Path) -> None:
    """FileExistsError where a directory is wanted and there is a file."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output {output} is a file; name a directory")


def prepare(output: Path, *, overwrite: bool) -> Path:
    """Makes room for a new run, and says where it is to be written: `output`, or beside a run.

    Args:
      output: made when missing.
      overwrite: as in `check`.

    Raises:
      FileExistsError: as `check`.
    """
    check(output, overwrite=overwrite)
    settle(output)
    output.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        return output
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    if (output / RUN).is_file() and not _is_prepared(output):
        (output / UNFINISHED).mkdir()
        return output / UNFINISHED
    # Of a run that never began nothing can be lost. run.json stays until the new one takes its
    # place: killed before that, the directory is still known for what it is.
    for path in _of_a_run(output):
        if path.name not in (RUN, LOCK):
            _delete(path)
    return output


def check_same(output: Path, now: Mapping[str, Any]) -> None:
    """That the newest run in a directory can go on as what is described.

    Args:
      now: as in run.json: "config", "compute", "model_config", "task_options", "data".

    Raises:
      FileNotFoundError: there is no run; InputError: it differs, and in what, or its checkpoints
        are gone.
    """
    place = place_of(output)
    run = read_run(place)
    differ = [
        key
        for part in ("config", "compute", "model_config", "task_options")
        if part in run  # the first runs had no options of tasks
        for key, value in now[part].items()
        if key not in _FREE and _recorded(run, part, key) != value
    ]
    differ += [
        f"the {role} examples"
        for role in ("train", "evaluation")
        if _get(run, "data", role, "fingerprint") != _get(now, "data", role, "fingerprint")
    ]
    if differ:
        raise InputError(
            f"output {output} holds a run that differs in {', '.join(differ)}; resume it as it "
            "was, or start another in another directory"
        )
    _check_checkpoints(place, run)


def _check_checkpoints(place: Path, run: Mapping[str, Any]) -> None:
    """That a run which had checkpoints has them: to begin anew without a word would lose it."""
    folder, metrics = place / CHECKPOINTS, place / METRICS
    begun = metrics.is_file() and metrics.stat().st_size > 0
    found = folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())
    if not found and ((begun and not folder.is_dir()) or run.get("status") == "finished"):
        raise InputError(
            f"{folder} is gone, and with it all that the run has learned: put it back, or train "
            "again with --overwrite"
        )


def _recorded(run: Mapping[str, Any], part: str, key: str) -> Any:
    """What a run was made with; what its version did not know yet was as it is left out today."""
    value = _get(run, part, key)
    if (part, key) != ("config", "optimizer") or not isinstance(value, Mapping):
        return value
    defaults = {field.name: field.default for field in dataclasses.fields(OptimizerConfig)}
    return {**json.loads(json.dumps(defaults)), **value}


def _get(value: Any, *names: str) -> Any:
    """The value at that place; None where there is none, whatever stands there instead."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def place_of(output: Path) -> Path:
    """Where the newest run of a directory is: beside the one that it is to replace, or there."""
    beside = output / UNFINISHED
    return beside if (beside / RUN).is_file() and not (beside / _READY).is_file() else output


def finish(output: Path) -> None:
    """Puts the run in `unfinished`, if there is one, into the place of the one before."""
    beside = output / UNFINISHED
    if (beside / RUN).is_file() and not (beside / _READY).is_file():
        names = sorted(path.name for path in _of_a_run(beside))
        # From here on there is no way back: a crash in the midst of it is made up for by `settle`.
        write_text(beside / _READY, json.dumps(names) + "\n")
    settle(output)


def settle(output: Path) -> None:
    """Completes a replacement that a crash has interrupted, and deletes its unfinished files.

    The lock must be held, and nothing be on its way to the directory.
    """
    beside = output / UNFINISHED
    for path in (*output.glob(".*.tmp"), *beside.glob(".*.tmp")):
        if re.fullmatch(_DRAFT, path.name) and LOCK not in path.name:  # others' asks for the lock
            _delete(path)
    if not (beside / _READY).is_file():
        return
    new = _read_ready(beside)
    for path in _of_a_run(output):
        if path.name not in new | {UNFINISHED, LOCK}:
            _delete(path)
    for name in sorted(new):
        if (beside / name).exists():
            if (beside / name).is_dir():
                _clear(output / name)
            os.replace(beside / name, output / name)
    for path in _of_a_run(beside):
        _delete(path)
    with contextlib.suppress(OSError):  # somebody else has put something there
        beside.rmdir()


def _read_ready(beside: Path) -> set[str]:
    """The names in ready.json, all of them names that a run gives its files.

    Raises:
      InputError: it is damaged, or names what is none of a run's. Nothing is then moved or deleted.
    """
    path = beside / _READY
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        names = None
    # A path, or a name that is not a run's, would have us delete or replace what nobody gave us.
    if not isinstance(names, list) or not all(map(_is_of_a_run, names)) or RUN not in names:
        raise InputError(
            f"{path} is damaged, and no longer says which files replace those of {beside.parent}: "
            f"move them there yourself and delete {beside}"
        )
    return set(names)


def _is_of_a_run(name: Any) -> bool:
    """Whether it is a plain name that a run gives to what it writes."""
    if not isinstance(name, str) or name != Path(name).name:
        return False
    return name in _FOLDERS or _FILE.fullmatch(name) is not None


def write_run(directory: Path, run: dict[str, Any]) -> None:
    """Writes run.json, all at once or not at all."""
    write_text(directory / RUN, json.dumps(run, indent=2, allow_nan=False) + "\n")


def read_run(directory: Path) -> dict[str, Any]:
    """The contents of run.json.

    Raises:
      FileNotFoundError: there is no run in the directory; InputError: it is not JSON any more.
    """
    path = directory / RUN
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no run ({RUN} is missing)")
    return read_json(path, "put it back, or start anew with --overwrite")


def foreign(directory: Path) -> Iterator[str]:
    """What in a directory no run has written: paths relative to it."""
    for path in directory.iterdir():
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and path.name == UNFINISHED:
            yield from (f"{UNFINISHED}/{name}" for name in foreign(path))
        elif is_folder and path.name in _FOLDERS:
            inner = re.compile(_FOLDERS[path.name])
            names = (inside.name for inside in path.iterdir())
            yield from (f"{path.name}/{name}" for name in names if not inner.fullmatch(name))
        elif is_folder or not _is_of_a_run(path.name):
            yield path.name


def _of_a_run(directory: Path) -> list[Path]:
    """The files and folders of a directory that a run writes."""
    strange = {name.partition("/")[0] for name in foreign(directory)}
    return [path for path in directory.iterdir() if path.name not in strange]


def _is_prepared(directory: Path) -> bool:
    """Whether the run there has done nothing yet."""
    try:
        return read_run(directory).get("status") == PREPARED
    except InputError:
        return False  # damaged: who knows what it was


def _delete(path: Path) -> None:
    """A file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Frees the name of a folder of a run; what somebody else has put there keeps another name."""
    if not folder.is_dir() or folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    strange = {name.partition("/")[2] for name in foreign(folder.parent)}
    for path in folder.iterdir():
        if path.name not in strange:
            _delete(path)
    if strange & {path.name for path in folder.iterdir()}:
        folder.rename(folder.with_name(f"{folder.name}.kept-{secrets.token_hex(4)}"))
    else:
        folder.rmdir()
