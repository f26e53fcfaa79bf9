"""Sentence embeddings: a vector for each text, from an encoder without a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jaxbert.data import Batches, Examples, load_tokenizer, tokenize
from jaxbert.errors import InputError
from jaxbert.models import AutoModel, split_model
from jaxbert.models.model import Model
from jaxbert.training.assemble import check_max_length, check_token_ids, tell_what_is_cut
from jaxbert.training.config import POOLINGS
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.pooling import pool
from jaxbert.training.predictor import as_examples, run_batches
from jaxbert.training.sentences import read_form
from jaxbert.training.step import (
    Batch,
    Params,
    Shard,
    in_microbatches,
    model_inputs,
    unsharded,
)
from jaxbert.weights.directory import SENTENCES
from jaxbert.weights.json_files import read_json

DEFAULT_LENGTH = 128
_NO_LIMIT = 10**9  # what transformers gives a tokenizer that has none is far more


def embed(
    model: Model,
    tokenizer: Any,
    texts: Sequence[str] | Examples,
    *,
    pooling: str | Sequence[str] = "mean",
    normalize: bool = False,
    prompt: str = "",
    includes_prompt: bool = True,
    batch_size: int = 32,
    max_length: int = DEFAULT_LENGTH,
    parallel: str = "jit",
    mesh: str | None = None,
) -> Float[np.ndarray, "N D"]:
    """A vector for each text, from a model such as `AutoModel` gives; see `make_embed_step`.

    Args:
      prompt: what is written before each text. includes_prompt: whether its tokens count.

    Raises:
      InputError: `max_length` is more than the model has positions for; a token that it has no
        row for; bad settings.

    Example:
      >>> from transformers import BertTokenizer
      >>> from jaxbert import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertModel(config, rngs=nnx.Rngs(0))
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good dull film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> embed(model, tokenizer, ["a good film", "dull"], max_length=8).shape
      (2, 16)
    """
    check_max_length(model.config, max_length)
    if "pooler" in (pooling, *pooling) and getattr(model, "pooler", None) is None:
        raise InputError(f"pooling={pooling!r}: this model has no pooler; take 'mean' or 'first'")
    engine = make_engine(parallel, mesh)
    graphdef, params = split_model(model)
    examples = as_examples(texts)
    if prompt:
        written = tuple(prompt + text for text in examples.texts)
        examples = dataclasses.replace(examples, texts=written)
    skip = 0 if includes_prompt or not prompt else _tokens_before(tokenizer, prompt)
    tokenized = tokenize(examples, tokenizer, max_length)
    check_token_ids(model.config, tokenized, examples.source, tokenizer)
    tell_what_is_cut(tokenized, examples.source, max_length)
    step = make_embed_step(
        graphdef, pooling=pooling, normalize=normalize, skip=skip, shard=engine.shard
    )
    batches = Batches(
        tokenized, batch_size, max_length=max_length, shuffle="once", row_multiple=engine.parts
    )
    results, _ = run_batches(Compiled(step, engine), engine.put_state(params), batches)
    return results["vectors"]


def _tokens_before(tokenizer: Any, prompt: str) -> int:
    """How many tokens a prompt is, with what stands before it, without what would end it."""
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - (len(ids) > 0 and ids[-1] in tokenizer.all_special_ids)


def embed_sentences(
    source: Path,
    texts: Sequence[str] | Examples,
    *,
    prompt_name: str | None = None,
    compute: Mapping[str, Any] | None = None,
    **options: Any,
) -> Float[np.ndarray, "N E"]:
    """A vector for each text, as the directory of a model says: also sentence-transformers'.

    Args:
      prompt_name: which of the model's prompts; None = its default, if it has one.
      compute: of `Compute`.
      options: of `embed`, in place of what the directory says.

    Raises:
      InputError: as `read_form` and `embed`.

    Example:
      >>> import tempfile
      >>> from transformers import BertTokenizer
      >>> from jaxbert import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good dull film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
      ...     _ = tokenizer.save_pretrained(directory)
      ...     embed_sentences(Path(directory), ["a good film", "dull"]).shape
      (2, 16)
    """
    form = read_form(source)
    model = AutoModel.from_pretrained(form.transformer, **(compute or {}))
    tokenizer = load_tokenizer(form.transformer)
    own = {
        "pooling": form.poolings,
        "prompt": form.prompt(prompt_name),
        "includes_prompt": form.includes_prompt,
    }
    if options.get("max_length") is None:
        options["max_length"] = own_max_length(model, tokenizer, form.transformer)
    asked = {name: value for name, value in options.items() if value is not None}
    return form.finish(embed(model, tokenizer, texts, **{**own, **asked}))


def own_max_length(model: Model, tokenizer: Any, directory: Path) -> int:
    """How many tokens of a text a model was made to embed, as the files beside it say.

    That is `max_seq_length` of sentence_bert_config.json, else the tokenizer's own limit; never
    more than the model has positions for. Where neither says it, 128.

    Args:
      directory: where the model was loaded from.

    Raises:
      InputError: the file is damaged, or names no number.

    Example:
      >>> import pathlib, tempfile
      >>> from transformers import BertTokenizer
      >>> from jaxbert import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertModel(config, rngs=nnx.Rngs(0))
      >>> tokenizer = BertTokenizer(vocab={"[UNK]": 0}, model_max_length=256)
      >>> own_max_length(model, tokenizer, pathlib.Path(tempfile.mkdtemp()))
      256
    """
    path, longest = directory / SENTENCES, model.config.max_tokens
    told = read_json(path).get("max_seq_length") if path.is_file() else None
    if told is None:
        limit = tokenizer.model_max_length
        return min(limit, longest) if limit < _NO_LIMIT else min(DEFAULT_LENGTH, longest)
    if not isinstance(told, int) or isinstance(told, bool) or told < 1:
        raise InputError(f"{path}: max_seq_length={told!r} must be a whole number of at least 1")
    return min(told, longest)


def make_embed_step(
    graphdef: Any,
    *,
    pooling: str | Sequence[str] = "mean",
    normalize: bool = False,
    skip: int = 0,
    shard: Shard = unsharded,
) -> Callable[[Params, Batch], dict[str, Any]]:
    """(params, batch) -> {"results": {"vectors": [B, S, D]}}: a vector for each example.

    Args:
      pooling: "pooler", or of the example's tokens as in `pooling.pool`; several side by side.
      normalize: divide by the Euclidean norm.
      skip: so many tokens at the beginning of each example do not count.
      shard: of the engine that runs it, see `engines.Engine.shard`.
    """
    poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if not poolings or {*poolings} - {*POOLINGS}:
        raise InputError(f"{pooling=} must be one of {', '.join(POOLINGS)}")

    def embed_rows(model: nnx.Module, batch: Batch) -> tuple[Any, tuple[()]]:
        out = model(**model_inputs(batch))
        rows = out.last_hidden_state, batch["segment_ids"], batch["segment_starts"]
        found = [out.pooler_output if p == "pooler" else pool(p, *rows, skip) for p in poolings]
        vectors = jnp.concatenate([part.astype(jnp.float32) for part in found], axis=-1)
        if normalize:
            norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / jnp.maximum(norm, 1e-12)
        return {"vectors": vectors}, ()

    over_rows = shard(in_microbatches(graphdef, embed_rows))
    return lambda params, batch: {"results": over_rows(params, batch)[0]}
