"""What several commands do: models and predictors from options, examples, tables of numbers.

The classes of models, of `Trainer` and of its relatives are named here and nowhere else in `cli`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbert.cli.options import EmbedOptions, ExportOptions, FindOptions, InferOptions
from jaxbert.errors import InputError
from jaxbert.settings import check_keys, fields_of
from jaxbert.tasks.options import TaskOptions

if TYPE_CHECKING:
    from jaxbert.data import Examples
    from jaxbert.models import EncoderConfig
    from jaxbert.tasks import Task
    from jaxbert.training import Predictor, Trainer

logger = logging.getLogger("jaxbert")


def keep_compiled_programs() -> None:
    """Lets JAX find the programs that an earlier command compiled."""
    import jax

    found = cache_folder("programs")
    if found is not None:
        jax.config.update("jax_compilation_cache_dir", str(found))
        # Also what compiles in no time: a command has dozens of that.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cache_folder(name: str) -> Path | None:
    """A folder of the cache; None where nothing can be written, which a line says."""
    from jaxbert.data import cache_directory

    folder = cache_directory() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): going on without it; JAXBERT_CACHE can name another place",
            folder, error.strerror,
        )  # fmt: skip
        return None
    return folder


def find_model(options: ExportOptions | FindOptions | InferOptions) -> Path:
    """The directory of the model."""
    from jaxbert.weights.directory import model_directory

    return model_directory(options.model, options.revision)


def read_config(model: str) -> EncoderConfig:
    """The configuration of a published model by name, of a directory, or of a hub id."""
    from jaxbert.models.auto import AutoConfig, family_of_preset

    if family_of_preset(model):
        return AutoConfig.preset(model)
    return AutoConfig.from_pretrained(model)


def shapes_of_parameters(config: EncoderConfig) -> Any:
    """The parameters that fine-tuning moves, as shapes: nothing is computed."""
    from jaxbert.models import split_model
    from jaxbert.tasks import TEXT_CLASSIFICATION, abstract_model

    return split_model(abstract_model(TEXT_CLASSIFICATION, config))[1]


def load_model(options: FindOptions, directory: Path, train: Examples, seed: int) -> Any:
    """A pre-trained model with a head for these examples, drawn with the seed where it is new."""
    from jaxbert import tasks
    from jaxbert.data import load_tokenizer, vocabulary_size

    task = tasks.get_task(
        options.task or train.task or tasks.TEXT_CLASSIFICATION, options.task_options
    )
    compute = dataclasses.asdict(options.compute)
    model = tasks.load_model(task, directory, examples=train, seed=seed, **compute)[0]
    size = vocabulary_size(load_tokenizer(directory)) if options.resize_token_embeddings else 0
    if size <= model.config.vocab_size:
        return model
    return model.resize_token_embeddings(size, seed=seed)


def make_trainer(options: FindOptions, model: Any, directory: Path, **more: Any) -> Trainer:
    """What fine-tunes that model.

    Args:
      more: of the arguments of `Trainer`.
    """
    from jaxbert import tasks
    from jaxbert.data import load_tokenizer
    from jaxbert.training import Trainer

    train = more.get("train")
    name = options.task or (train and train.task)
    task = tasks.get_task(name, options.task_options) if name else None
    settings = {"config": options.training, "task": task, **more}
    return Trainer(model, load_tokenizer(directory), **settings)


def make_predictor(options: InferOptions) -> Predictor:
    """What evaluates, and predicts with, a model that has been fine-tuned."""
    from jaxbert import tasks
    from jaxbert.data import load_tokenizer
    from jaxbert.training import Predictor, make_engine

    keep_compiled_programs()
    directory = find_model(options)
    own = tasks.task_of(directory, options.task_options)
    if options.task and own and own.name != options.task:
        raise InputError(
            f"--task {options.task}: {options.model} is for {own.name}; leave --task out, or give "
            "another model"
        )
    task = own or tasks.get_task(options.task or "text-classification", options.task_options)
    compute = dataclasses.asdict(options.compute)
    model, report = tasks.load_model(task, directory, **compute)
    if report.initialized:
        raise InputError(
            f"{options.model} is not fine-tuned: it lacks {', '.join(report.initialized)}; "
            "run jaxbert finetune first"
        )
    training = options.training
    return Predictor(
        model,
        load_tokenizer(directory),
        task=task,
        batch_size=training.batch_size,
        max_length=training.max_length,
        engine=make_engine(training.parallel, training.mesh),
    )


def settings_of(options: InferOptions) -> dict[str, Any]:
    """{place: value}: how the model's own configuration says that it is to be used.

    Raises:
      InputError: it says what is no setting.
    """
    from jaxbert.models.config_checks import settings_from_hf
    from jaxbert.weights import directory

    found_in = find_model(options)
    known = {"max_length": "training.max_length"}
    known |= {name: f"task_options.{name}" for name in fields_of(TaskOptions)}
    try:
        found = dict(settings_from_hf(directory.read_config(found_in)))
        check_keys("config.json: settings", found, list(known))
    except InputError as error:
        raise InputError(f"{found_in}: {error}") from None
    return {known[name]: value for name, value in found.items()}


def load_own_model(options: ExportOptions, directory: Path) -> Any:
    """The model of a directory in the class that its config.json names."""
    from jaxbert import tasks
    from jaxbert.models import AutoModel

    task = tasks.task_of(directory)
    compute = dataclasses.asdict(options.compute)
    if task is None:
        return AutoModel.from_pretrained(directory, **compute)
    return tasks.load_model(task, directory, **compute)[0]


def embed(options: EmbedOptions, texts: Examples) -> Any:
    """[N, D]: a vector for each text, from a model without its head."""
    from jaxbert.training import embedding
    from jaxbert.training.sentences import normalized

    keep_compiled_programs()
    training = options.training
    if options.max_length is not None:
        training = dataclasses.replace(training, max_length=options.max_length)  # which checks it
    vectors = embedding.embed_sentences(
        find_model(options),
        texts,
        prompt_name=options.prompt,
        compute=dataclasses.asdict(options.compute),
        pooling=options.pooling,
        batch_size=training.batch_size,
        max_length=options.max_length,
        parallel=training.parallel,
        mesh=training.mesh,
    )
    return normalized(vectors) if options.normalize else vectors


def read_training_examples(options: FindOptions) -> Examples:
    """Of --train, for the task at hand."""
    from jaxbert import tasks

    return tasks.load_examples(
        options.train,
        split=options.splits.train_split,
        task=options.task,
        options=options.task_options,
        labelled=True,
        **options.columns.given(),
    )


def read_unlabelled(
    options: InferOptions, source: str, task: Task
) -> tuple[Examples, list[dict[str, Any]]]:
    """(examples without labels, for each its row as JSON) of a file or the hub.

    Or of standard input: a text a line.
    """
    from jaxbert import tasks
    from jaxbert.data import Examples, sources, tables

    if source == "-":
        if "text_column" not in task.columns:
            raise InputError(
                f"task {task.name} takes more than texts: give a file with the columns "
                f"{', '.join(filter(None, task.columns.values()))}"
            )
        lines = _lines_of_input()
        return Examples(lines, source="standard input"), [{"text": line} for line in lines]
    given = options.columns.given()
    table = tables.read_table(source, options.split, header=given.pop("header", True))
    columns = tasks.columns_of_task(task, given)
    examples = task.read(table, columns, labelled=False)
    values = {str(name): sources.values_of(column) for name, column in table.columns.items()}
    rows = zip(*values.values(), strict=True)
    return examples, [dict(zip(values, map(_plain, row), strict=True)) for row in rows]


def read_texts(options: InferOptions, source: str) -> Examples:
    """Texts alone, or pairs of them, of a file, the hub, or standard input."""
    from jaxbert.tasks import TEXT_CLASSIFICATION

    return read_unlabelled(options, source, TEXT_CLASSIFICATION)[0]


def _plain(value: Any) -> Any:
    """As JSON has it: a number that is none is null, and what it has no word for is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | None) else str(value)


def _lines_of_input() -> tuple[str, ...]:
    from jaxbert.data.lines import lines_of

    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8: {error}") from None
    if not text:
        raise InputError("standard input is empty: want a text a line")
    return tuple(lines_of(text))


def free_file(path: str, *, overwrite: bool) -> Path:
    """The path of a file to write, which must not be there already."""
    check_place(path)
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; add --overwrite to replace it")
    return Path(path)


def check_place(path: str) -> None:
    """OSError where no file can be written: now, and not after the work."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file")
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: {folder} is no directory; make it")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: {folder} does not let you")


def check_finite(scores: Mapping[str, float], where: str) -> None:
    """Raises InputError naming every score that is no finite number."""
    bad = [f"{name} {value}" for name, value in scores.items() if not math.isfinite(value)]
    if bad:
        raise InputError(
            f"{where}: {', '.join(bad)}: the model computes no finite numbers there; train it with "
            "a lower learning rate, or compute in float32"
        )


def number(value: float) -> str:
    """As in tables."""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """A row for each data set, a column for each score; "-" where a data set has none of it."""
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    rows = (
        [source, *(number(found[name]) if name in found else "-" for name in names)]
        for source, found in scores.items()
    )
    print_table(["data", *names], rows)


def print_table(header: list[str], rows: Iterable[list[str]]) -> None:
    """Columns of one width; the first aligned to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
        print("  ".join(cells).rstrip())
