"""Sentence embeddings: a vector for each text, from an encoder without a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jaxbert.data import Batches, Examples, tokenize
from jaxbert.errors import InputError
from jaxbert.models import split_model
from jaxbert.models.encoder import segment_means
from jaxbert.models.model import Model
from jaxbert.training.assemble import check_max_length, check_token_ids, tell_what_is_cut
from jaxbert.training.config import POOLINGS
from jaxbert.training.engines import Compiled, make_engine
from jaxbert.training.predictor import as_examples, run_batches
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
    pooling: str = "mean",
    normalize: bool = False,
    batch_size: int = 32,
    max_length: int = DEFAULT_LENGTH,
    parallel: str = "jit",
    mesh: str | None = None,
) -> Float[np.ndarray, "N D"]:
    """A vector for each text, from a model such as `AutoModel` gives; see `make_embed_step`.

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
    if pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise InputError(f"pooling={pooling!r}: this model has no pooler; take 'mean' or 'first'")
    engine = make_engine(parallel, mesh)
    graphdef, params = split_model(model)
    examples = as_examples(texts)
    tokenized = tokenize(examples, tokenizer, max_length)
    check_token_ids(model.config, tokenized, examples.source, tokenizer)
    tell_what_is_cut(tokenized, examples.source, max_length)
    step = make_embed_step(graphdef, pooling=pooling, normalize=normalize, shard=engine.shard)
    batches = Batches(tokenized, batch_size, max_length=max_length, row_multiple=engine.parts)
    results, _ = run_batches(Compiled(step, engine), engine.put_state(params), batches)
    return results["vectors"]


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
    graphdef: Any, *, pooling: str = "mean", normalize: bool = False, shard: Shard = unsharded
) -> Callable[[Params, Batch], dict[str, Any]]:
    """(params, batch) -> {"results": {"vectors": [B, S, D]}}: a vector for each example.

    Args:
      pooling: "mean" of the example's tokens, the "first" token's vector, or the "pooler".
      normalize: divide by the Euclidean norm.
      shard: of the engine that runs it, see `engines.Engine.shard`.
    """
    if pooling not in POOLINGS:
        raise InputError(f"{pooling=} must be one of {', '.join(POOLINGS)}")

    def embed_rows(model: nnx.Module, batch: Batch) -> tuple[Any, tuple[()]]:
        out = model(**model_inputs(batch))
        vectors = out.pooler_output
        if pooling == "first":
            starts = batch["segment_starts"][..., None]
            vectors = jnp.take_along_axis(out.last_hidden_state, starts, axis=1)
        elif pooling == "mean":
            segments = batch["segment_starts"].shape[1]
            vectors = segment_means(out.last_hidden_state, batch["segment_ids"], segments)
        if normalize:
            norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / jnp.maximum(norm, 1e-12)
        return {"vectors": vectors.astype(jnp.float32)}, ()

    over_rows = shard(in_microbatches(graphdef, embed_rows))
    return lambda params, batch: {"results": over_rows(params, batch)[0]}
