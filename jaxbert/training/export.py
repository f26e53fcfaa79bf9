"""A model as a program: StableHLO that runs with JAX alone, its weights beside it.

What is written: `model.stablehlo` (by `jax.export`, the number of rows left open), its parameters
in `weights.safetensors` under their paths here, and `export.json`, which says what goes in and
comes out. Reading it back needs jax and safetensors, and nothing of this package.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from jaxbert.atomic import replacing, write_text
from jaxbert.models import merge_model, split_model
from jaxbert.models.heads import ForMultipleChoice
from jaxbert.models.model import Model
from jaxbert.training.assemble import check_max_length

PROGRAM, WEIGHTS, ABOUT = "model.stablehlo", "weights.safetensors", "export.json"
PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(
    model: Model, directory: Path, *, max_length: int, platforms: tuple[str, ...] = PLATFORMS
) -> float:
    """Writes the program of a model's forward pass, reads it back and compares.

    Args:
      directory: made when missing.
      max_length: tokens of a row; shorter texts are padded, with an attention mask of 0.
      platforms: of `jax.export`; one program for all of them.

    Returns:
      The largest difference between an output of the program and the model's, on random tokens.

    Raises:
      InputError: `max_length` is more than the model has positions for.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from jaxbert import BertConfig, BertForSequenceClassification
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     export_model(model, Path(directory), max_length=8) < 1e-5
      True
    """
    check_max_length(model.config, max_length)
    run, params = _function(model)
    axes = ("b", "n") if isinstance(model, ForMultipleChoice) else ("b",)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] * bool(_types(model)))]
    open_shape = jax_export.symbolic_shape(", ".join((*axes, str(max_length))))
    rows = {name: jax.ShapeDtypeStruct(open_shape, jnp.int32) for name in names}
    shapes = {name: jax.ShapeDtypeStruct(p.shape, p.dtype) for name, p in params.items()}
    exported = jax_export.export(jax.jit(run), platforms=platforms)(shapes, rows)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / PROGRAM) as temporary:
        temporary.write_bytes(exported.serialize())
    _save(params, directory / WEIGHTS)
    inputs = _random_inputs(model, names, (2,) * len(axes) + (max_length,))
    wanted = run(params, inputs)
    about = {
        "inputs": {name: [*map(str, open_shape)] for name in names},
        "outputs": {name: list(map(str, out.shape)) for name, out in _outputs(exported).items()},
        "platforms": list(platforms),
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
    }
    write_text(directory / ABOUT, json.dumps(about, indent=2) + "\n")
    found = load_program(directory)(inputs)
    return max(float(jnp.abs(found[name] - wanted[name]).max()) for name in wanted)


def load_program(directory: Path) -> Callable[[Mapping[str, Any]], dict[str, jax.Array]]:
    """{input: rows} -> {output: rows} of what `export_model` wrote."""
    from safetensors.numpy import load_file

    program = jax_export.deserialize(bytearray((directory / PROGRAM).read_bytes()))
    params = load_file(directory / WEIGHTS)
    return lambda rows: program.call(params, dict(rows))


def _function(model: Model) -> tuple[Callable[[Any, Any], dict[str, jax.Array]], dict[str, Any]]:
    """(({path: parameter}, {input: rows}) -> {output: rows}, {path: parameter})."""
    graphdef, params = split_model(_plain(model))
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}

    def run(weights: Mapping[str, jax.Array], rows: Mapping[str, jax.Array]) -> dict[str, Any]:
        filled = jax.tree_util.tree_unflatten(tree, [weights[name] for name in named])
        outputs = merge_model(graphdef, filled)(**rows)._asdict()
        outputs.pop("hidden_states", None)
        return {name: value for name, value in outputs.items() if value is not None}

    return run, named


def _plain(model: Model) -> Model:
    """The same in the forms that every platform can compute."""
    compute = dataclasses.replace(model.compute, platform="cpu")
    build = lambda: type(model)(model.config, rngs=nnx.Rngs(0), compute=compute)  # noqa: E731
    return merge_model(split_model(nnx.eval_shape(build))[0], split_model(model)[1])


def _types(model: Model) -> int:
    return model.config.type_vocab_size


def _outputs(exported: Any) -> dict[str, Any]:
    return jax.tree_util.tree_unflatten(exported.out_tree, exported.out_avals)


def _save(params: Mapping[str, Any], path: Path) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(leaf) for name, leaf in params.items()}, temporary)


def _random_inputs(model: Model, names: list[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """Token ids, the last quarter of each row padding."""
    rng = np.random.default_rng(0)
    inputs = {"input_ids": rng.integers(0, model.config.vocab_size, shape).astype(np.int32)}
    inputs["attention_mask"] = np.broadcast_to(
        np.arange(shape[-1]) < max(1, 3 * shape[-1] // 4), shape
    ).astype(np.int32)
    if "token_type_ids" in names:
        types = rng.integers(0, _types(model), shape)
        inputs["token_type_ids"] = np.sort(types, axis=-1).astype(np.int32)
    return inputs
