"""`from_pretrained` and `save_pretrained`: between a Hugging Face directory or hub id and a model.

It knows no model: a model class that inherits `PretrainedMixin` says what its configuration is and
how its parameters are called.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbert.errors import InputError
from jaxbert.weights.directory import CONFIG, model_directory, read_config
from jaxbert.weights.json_files import write_json
from jaxbert.weights.readers import StoredTensor, open_checkpoint
from jaxbert.weights.rename import Family, Head, Rename, pair
from jaxbert.weights.writer import write_checkpoint

Model = TypeVar("Model", bound="PretrainedMixin")

logger = logging.getLogger("jaxbert")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load did beyond copying tensors.

    Args:
      directory: where the files were.
      initialized: our parameter paths that the checkpoint does not have, or has for another task
        or other labels; they are newly drawn and need training.
      unused: the checkpoint's tensors, by its own names, that the model has no place for.
    """

    directory: Path
    initialized: tuple[str, ...]
    unused: tuple[str, ...]


class PretrainedMixin:
    """Gives a model class `from_pretrained` and `save_pretrained`.

    The class is an `nnx.Module`, called as `cls(config, rngs=..., compute=...)`, keeps `config`,
    and is named as in Hugging Face. It sets:
      config_class: a frozen dataclass with `from_hf`, `to_hf`, `num_labels`, `id2label` and
        `problem_type`.
      compute_class: a dataclass of the options that `from_pretrained` passes on.
      family: the names of its parameters.
    """

    config_class: ClassVar[Any]
    compute_class: ClassVar[Any]
    family: ClassVar[Family]

    config: Any

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        num_labels: int | None = None,
        labels: Sequence[str] | None = None,
        seed: int = 0,
        **compute: Any,
    ) -> Self:
        """The model with the weights of a Hugging Face directory or hub repository.

        The weights of any task fit any task: the encoder is taken, and a head that the checkpoint
        does not have is newly initialized, as is a missing pooler. That is reported as a warning
        of the logger "jaxbert", and by `load_pretrained`. Names may have the encoder's prefix or
        not, and LayerNorms may say gamma and beta.

        Args:
          source: a directory with config.json and weights in one of the formats of
            `weights.readers`, or the id of a repository on the hub.
          revision: branch, tag or commit; for the hub only.
          num_labels: how many classes; a classifier for another number is newly initialized.
            Models that do not classify ignore it, and labels.
          labels: their names in index order; a classifier for other names is newly initialized.
          seed: of what is newly initialized.
          **compute: the fields of `Compute`: `dtype` of matrix products, `param_dtype` to which
            the weights are cast (both default "float32"), `gradient_checkpointing`,
            `scan_layers`.

        Raises:
          OSError: there is no such directory or repository, or it is no model.
          InputError: a file is unreadable, the configuration is refused, or the tensors do not fit
            it: all missing, unexpected and misshapen ones, with both shapes; or one holds numbers
            that are not finite.

        Reference: transformers' `PreTrainedModel.from_pretrained`; unlike it, an encoder that is
        incomplete is an error, and so is a decoder that differs from the word embedding.
        """
        return load_pretrained(
            cls,
            source,
            revision=revision,
            num_labels=num_labels,
            labels=labels,
            seed=seed,
            **compute,
        )[0]

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors as `transformers` in PyTorch writes them.

        Loading and saving gives the tensors back byte for byte when `param_dtype` is theirs, under
        today's names; buffers (position_ids) and tied copies (the decoder) are left out, as
        `transformers` does now. A model that the directory already holds is replaced. Tokenizer
        files are not touched. Over 5 GB the weights are split into shards with an index.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        leaves, _ = flatten(nnx.split(self)[1])
        rows = pair(self.family.rows(_architecture(type(self))), leaves)
        tensors = {row.theirs: row.turn(np.asarray(leaves[row.ours])) for row in rows}
        write_checkpoint(directory, dict(sorted(tensors.items())))
        self.save_config(directory)

    def save_config(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json alone, beside weights that are there already."""
        architecture = _architecture(type(self))
        dtype = jax.tree.leaves(nnx.split(self)[1])[0].dtype.name
        config = _fix_labels(self.family.heads[architecture], self.config)
        hf = config.to_hf() | {"architectures": [architecture], "dtype": dtype}
        write_json(Path(directory) / CONFIG, hf)


def load_pretrained(
    model_class: type[Model],
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    **compute: Any,
) -> tuple[Model, LoadReport]:
    """`model_class.from_pretrained(...)`, and the report of what was initialized and unused."""
    directory = model_directory(source, revision)
    hf, tensors = read_config(directory), _open_tensors(directory, model_class.family)
    try:
        config, aside = _choose_labels(model_class, hf, tensors, num_labels, labels)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from None
    options = model_class.compute_class(**compute)
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > len(tensors):  # before they are built: a file can ask for any number
        raise InputError(
            f"{directory}: {CONFIG} has num_hidden_layers={layers}, the checkpoint only "
            f"{len(tensors)} tensors: they do not belong together; fetch the model again"
        )

    construct: Any = model_class  # a mixin has no constructor of its own
    model = nnx.eval_shape(lambda: construct(config, rngs=nnx.Rngs(0), compute=options))
    graphdef, state = nnx.split(model)
    shapes, structure = flatten(state)
    rows = pair(model_class.family.rows(_architecture(model_class)), shapes)
    try:
        found, unused = _match(model_class, rows, shapes, tensors, aside)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from None
    drawn = draw_parameters(model_class, config, options, shapes.keys() - found.keys(), seed)
    read = {
        row.ours: _read(row, found[row.ours], shapes[row.ours].dtype, directory)
        for row in rows
        if row.ours in found
    }
    report = LoadReport(directory, tuple(sorted(drawn)), unused)
    _log(model_class.__name__, report)
    values = drawn | read
    params = jax.tree.unflatten(structure, [values[path] for path in shapes])
    return nnx.merge(graphdef, params), report


def _architecture(model_class: type[Any]) -> str:
    """The Hugging Face class that it is, or derives from."""
    return next(c.__name__ for c in model_class.__mro__ if c.__name__ in model_class.family.heads)


def _open_tensors(directory: Path, family: Family) -> dict[str, StoredTensor]:
    """{full name: tensor}."""
    tensors = open_checkpoint(directory)
    try:
        names = family.full_names(tensors)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from None
    return {full: tensors[name] for full, name in names.items()}


def _choose_labels(
    model_class: type[Model],
    hf: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    num_labels: int | None,
    labels: Sequence[str] | None,
) -> tuple[Any, set[str]]:
    """The configuration, and the head tensors to leave aside because they are another head's."""
    family, architecture = model_class.family, _architecture(model_class)
    stored = model_class.config_class.from_hf(hf)
    config = _fix_labels(family.heads[architecture], _with_labels(stored, num_labels, labels))
    aside = _other_tasks(family, architecture, hf.get("architectures"), tensors)
    if config is not stored and family.heads[architecture].labelled:
        other = _other_labels(family.heads[architecture], stored, config, tensors)
        config = dataclasses.replace(config, problem_type=None) if other else config
        aside |= other
    return config, aside


def _with_labels(config: Any, num_labels: int | None, labels: Sequence[str] | None) -> Any:
    """The same configuration when nothing is asked for."""
    if labels is None and num_labels is None:
        return config
    if labels is None:
        id2label = config.id2label if num_labels == config.num_labels else None
        return dataclasses.replace(config, num_labels=num_labels, id2label=id2label)
    if num_labels not in (None, len(labels)):
        raise InputError(f"{num_labels=} but labels has {len(labels)} names: give one of them")
    return dataclasses.replace(config, num_labels=len(labels), id2label=tuple(labels))


def _fix_labels(head: Head, config: Any) -> Any:
    """With the only number of labels that the head can have, whatever another task had."""
    if head.num_labels in (None, config.num_labels):
        return config
    return dataclasses.replace(config, num_labels=head.num_labels, id2label=None)


def _other_tasks(
    family: Family, architecture: str, saved: Any, tensors: Mapping[str, StoredTensor]
) -> set[str]:
    """The tensors that another architecture calls as this one calls its own."""
    known = [name for name in family.heads if isinstance(saved, list) and name in saved]
    if not known or architecture in known:
        return set()
    return {name for name in tensors if name.startswith(family.ambiguous)}


def _other_labels(
    head: Head, stored: Any, config: Any, tensors: Mapping[str, StoredTensor]
) -> set[str]:
    """The tensors of a head that has other labels than the model is to have."""
    names = head.of_labels() & tensors.keys()
    renamed = stored.id2label and config.id2label and stored.id2label != config.id2label
    resized = any(tensors[name].shape[:1] != (config.num_labels,) for name in names)
    return names if renamed or resized else set()


def _match(
    model_class: type[Model],
    rows: Iterable[Rename],
    shapes: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    aside: set[str],
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """({our path: its tensor}, names of the unused tensors); an InputError lists all misfits."""
    family, architecture = model_class.family, _architecture(model_class)
    usable = {name: tensor for name, tensor in tensors.items() if name not in aside}
    problems = _fold_copies(usable, family.heads[architecture].copies)
    wanted = {family.full_name(row.theirs): row for row in rows}
    for name, row in wanted.items():
        shape = row.turn_shape(shapes[row.ours].shape)
        problems += _misfits(usable.get(name), name, shape, family.must_have(name))
    strange = {name for name in usable if name not in wanted}
    problems += [
        f"unexpected {usable[name].name}, got {list(usable[name].shape)}"
        for name in strange
        if family.must_have(name)
    ]
    if problems:
        lines = "\n  ".join(sorted(problems))
        raise InputError(f"the tensors do not fit {model_class.__name__} of {CONFIG}:\n  {lines}")
    found = {row.ours: usable[name] for name, row in wanted.items() if name in usable}
    return found, tuple(sorted(tensors[name].name for name in strange | aside))


def _fold_copies(tensors: dict[str, StoredTensor], copies: Iterable[tuple[str, str]]) -> list[str]:
    """Leaves one tensor of each copied pair, under the original's name; lists unequal pairs."""
    problems = []
    for copy, original in copies:
        if copy not in tensors:
            continue
        second = tensors.pop(copy)
        first = tensors.setdefault(original, second)
        if first is not second and not _equal(first, second):
            problems.append(
                f"untied     {second.name} {list(second.shape)} differs from "
                f"{first.name} {list(first.shape)}; here they are always one"
            )
    return problems


def _equal(first: StoredTensor, second: StoredTensor) -> bool:
    readable = first.is_float and second.is_float and first.shape == second.shape
    return readable and np.array_equal(first.read(), second.read())


def _misfits(
    tensor: StoredTensor | None, name: str, shape: tuple[int, ...], required: bool
) -> list[str]:
    if tensor is None:
        return [f"missing    {name}, wanted {list(shape)}"] if required else []
    problems = []
    if tensor.shape != shape:
        problems.append(f"misshapen  {tensor.name}, got {list(tensor.shape)}, wanted {list(shape)}")
    if not tensor.is_float:
        problems.append(
            f"quantized  {tensor.name}, got {tensor.dtype}, wanted F64, F32, F16 or BF16"
        )
    return problems


def _read(row: Rename, tensor: StoredTensor, dtype: Any, directory: Path) -> jax.Array:
    # Cast by numpy, tensor by tensor: jax would not take float64. What the cast overflows is named.
    with np.errstate(over="ignore"):
        values = row.turn(tensor.read()).astype(dtype, copy=False)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(
            f"{directory}: {bad} of the {values.size} numbers of {tensor.name}, as {values.dtype}, "
            "are no finite numbers (nan or inf): the training that wrote it has diverged or the "
            "file is damaged; fetch or train the model again, or load it with "
            "param_dtype='float32' if it was not"
        )
    # Copied, so that the buffer is jax's own and may be donated.
    return jnp.array(values)


def draw_parameters(
    model_class: type[Any], config: Any, compute: Any, paths: Iterable[str], seed: int
) -> dict[str, jax.Array]:
    """The initial values of some parameters of a model, by one program for every seed.

    The constructor is traced and the compiler drops what is not returned, so that the rest of the
    model is never drawn nor held.

    Args:
      model_class, config, compute: what is constructed.
      paths: "/"-joined.

    Returns:
      {path: value}.

    Example:
      >>> from jaxbert.models import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> drawn = draw_parameters(BertModel, config, None, {"pooler/kernel"}, seed=0)
      >>> drawn["pooler/kernel"].shape
      (16, 16)
    """
    chosen = frozenset(paths)
    return _draw(model_class, config, compute, chosen, jax.random.key(seed)) if chosen else {}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw(
    model_class: type[Any], config: Any, compute: Any, paths: frozenset[str], key: jax.Array
) -> dict[str, jax.Array]:
    leaves, _ = flatten(nnx.split(model_class(config, rngs=nnx.Rngs(key), compute=compute))[1])
    return {path: leaf for path, leaf in leaves.items() if path in paths}


def flatten(state: nnx.State) -> tuple[dict[str, Any], Any]:
    """({"/"-joined path: leaf}, tree structure of the plain nested dict).

    Example:
      >>> from jaxbert.models import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> leaves, _ = flatten(nnx.split(BertModel(config, rngs=nnx.Rngs(0)))[1])
      >>> leaves["pooler/kernel"].shape
      (16, 16)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): leaf for path, leaf in leaves}, structure


def _log(architecture: str, report: LoadReport) -> None:
    parts = []
    if report.initialized:
        parts.append(f"newly initialized, train before use: {', '.join(report.initialized)}")
    if report.unused:
        parts.append(f"unused from the checkpoint: {', '.join(report.unused)}")
    if parts:
        level = logging.WARNING if report.initialized else logging.INFO
        logger.log(level, "%s from %s: %s", architecture, report.directory, "; ".join(parts))
