"""The encoder as a model, and models as pure functions of their parameters.

A family's classes derive from these, and from those of `heads`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxbert.errors import InputError
from jaxbert.models.attention import SelfAttention
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig
from jaxbert.models.dropout import Dropout
from jaxbert.models.encoder import Embeddings, EncoderLayer, Pooler
from jaxbert.models.outputs import EncoderOutput
from jaxbert.models.positions import places
from jaxbert.models.primitives import LayerNorm
from jaxbert.models.stack import run_layers
from jaxbert.models.visibility import Visibility, take_columns
from jaxbert.weights.pretrained import PretrainedMixin, draw_parameters, flatten

M = TypeVar("M", bound="Model")


class Model(PretrainedMixin, nnx.Module):
    """What all models have: a configuration, and how they are computed."""

    config_class: ClassVar[type[EncoderConfig]]
    compute_class: ClassVar[type[Compute]] = Compute

    config: EncoderConfig
    compute: Compute

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, compute: Compute | None = None):
        del rngs
        self.config = config
        self.compute = (compute or Compute()).resolved()

    def resize_token_embeddings(self: M, size: int, *, seed: int = 0) -> M:
        """A model for a vocabulary of that size; this one is left as it is.

        The rows of the tokens that stay are kept. New ones are drawn from normal(0,
        initializer_range), and a word prediction's new biases are 0, as in a new model: they mean
        nothing before training. (Hugging Face's `mean_resizing=False`; its default draws around
        the mean of the old rows.)

        Args:
          size: tokens of the new vocabulary, such as `len(tokenizer)`; fewer cut off the last.
          seed: of what is drawn.

        Raises:
          InputError: it is no whole number of at least 1.

        Example:
          >>> from jaxbert.models import BertConfig, BertModel
          >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
          ...                     num_attention_heads=2, intermediate_size=24)
          >>> larger = BertModel(config, rngs=nnx.Rngs(0)).resize_token_embeddings(42)
          >>> larger.config.vocab_size, larger.embeddings.word_embeddings.embedding.shape
          (42, (42, 16))
        """
        config = dataclasses.replace(self.config, vocab_size=size)
        graphdef, state = nnx.split(self)
        old, structure = flatten(state)
        larger = nnx.eval_shape(lambda: type(self)(config, rngs=nnx.Rngs(0)))
        shapes, _ = flatten(nnx.split(larger)[1])
        changed = {path for path, leaf in old.items() if shapes[path].shape != leaf.shape}
        fresh = draw_parameters(type(self), config, None, changed, seed)
        leaves = [_with_rows(leaf, fresh.get(path)) for path, leaf in old.items()]
        resized = merge_model(graphdef, jax.tree.unflatten(structure, leaves))
        for _, module in nnx.iter_graph(resized):
            if isinstance(module, Model):
                module.config = config
        return resized


class EncoderModel(Model):
    """The encoder without a head.

    Args:
      config: what is computed.
      rngs: draws the initial parameters: normal(0, initializer_range), as Hugging Face does.
      compute: dtypes and memory; None = all defaults.
      add_pooling_layer: whether there is a pooler, in a family that has one.

    A family whose embeddings or attention have parameters of their own replaces their classes.
    """

    embeddings_class: ClassVar[type[Embeddings]] = Embeddings
    attention_class: ClassVar[type[SelfAttention]] = SelfAttention

    def __init__(
        self,
        config: EncoderConfig,
        *,
        rngs: nnx.Rngs,
        compute: Compute | None = None,
        add_pooling_layer: bool = True,
    ):
        super().__init__(config, rngs=rngs, compute=compute)
        made: dict[str, Any] = {"compute": self.compute, "rngs": rngs}
        self.embeddings = self.embeddings_class(config, **made)
        self.layers = nnx.List(
            EncoderLayer(config, index=i, attention=self.attention_class, **made)
            for i in range(config.num_layer_groups)
        )
        self.final_norm = (
            LayerNorm(
                config.hidden_size,
                epsilon=config.layer_norm_eps,
                compute=self.compute,
                bias=config.bias,
            )
            if config.norm == "pre"
            else None
        )
        has_pooler = add_pooling_layer and config.has_pooler
        self.pooler = Pooler(config, **made) if has_pooler else None

    @jax.named_scope("encoder")
    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        segment_ids: ArrayLike | None = None,
        segment_starts: ArrayLike | None = None,
        dropout: Dropout | None = None,
        pooled_only: bool = False,
    ) -> EncoderOutput:
        """Encodes rows of tokens, each row one example, or several packed side by side.

        Args:
          input_ids: [B, L] int.
          attention_mask: [B, L], 1 = token, 0 = padding; None = all are tokens.
          token_type_ids: [B, L]; None = all 0.
          position_ids: [B, L], rows of the table of positions, or how far rotations go; None = as
            the family counts them (0 ... L-1 for most), from the start of each segment. An index
            outside its table gives NaN.
          segment_ids: [B, L], 0 = padding, 1 ... S: packed examples, each in one piece, blind to
            each other. Excludes attention_mask.
          segment_starts: [B, S], the column of each segment's first token; the pooler then gives
            one vector a segment.
          dropout: None = none; see `models.dropout.Dropout`.
          pooled_only: the last layer computes the first tokens, which the pooler or the head
            reads, and skips the others.

        Raises:
          InputError: rows are longer than there are positions; attention_mask and segment_ids.
        """
        ids = jnp.asarray(input_ids)
        mask, types, positions, segments, starts = (
            None if x is None else jnp.asarray(x)
            for x in (attention_mask, token_type_ids, position_ids, segment_ids, segment_starts)
        )
        _check_length(ids, positions, segments, self.config)
        standing = positions if positions is not None else places(segments, ids.shape[1])
        visibility = Visibility.of(mask, segments, standing)
        embedded = self.embeddings(ids, types, positions, segments, dropout)
        first = jnp.zeros((ids.shape[0], 1), jnp.int32) if starts is None else starts
        hidden_states = run_layers(
            self.layers,
            [self.config.layer_group(i) for i in range(self.config.num_hidden_layers)],
            embedded,
            visibility,
            self.embeddings.relative(ids.shape[1]),
            dropout,
            first if pooled_only else None,
            self.compute,
        )
        last = hidden_states[-1] if self.final_norm is None else self.final_norm(hidden_states[-1])
        read = last if pooled_only else take_columns(last, first)
        read = read if starts is not None else read[:, 0]
        pooled = None if self.pooler is None else self.pooler(read)
        if pooled_only:
            return EncoderOutput(read, pooled, ())
        return EncoderOutput(last, pooled, (*hidden_states[:-1], last))


def _check_length(
    input_ids: Array,
    position_ids: Array | None,
    segment_ids: Array | None,
    config: EncoderConfig,
) -> None:
    if not config.position_rows or position_ids is not None or segment_ids is not None:
        return
    length = input_ids.shape[-1]
    if length > config.max_tokens:
        raise InputError(
            f"input_ids has rows of {length} tokens; the model has position embeddings for "
            f"{config.max_tokens}: truncate the text"
        )


def _with_rows(old: Array, fresh: Array | None) -> Array:
    """The old rows, and the fresh ones' where there are no more old ones."""
    if fresh is None:
        return old
    kept = min(len(old), len(fresh))
    return jnp.concatenate([old[:kept], fresh[kept:].astype(old.dtype)])


def split_model(model: Model) -> tuple[Any, dict[str, Any]]:
    """(graph definition, parameters): the latter a plain nested dict, ready for jit and grad.

    Example:
      >>> from jaxbert.models import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> graphdef, params = split_model(BertModel(config, rngs=nnx.Rngs(0)))
      >>> params["pooler"]["kernel"].shape
      (16, 16)
    """
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge_model(graphdef: Any, params: Any) -> Any:
    """The model that `split_model` took apart, with these parameters.

    Example:
      >>> from jaxbert.models import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> graphdef, params = split_model(BertModel(config, rngs=nnx.Rngs(0)))
      >>> params["pooler"]["bias"] = jnp.ones(16)
      >>> float(merge_model(graphdef, params).pooler.bias[...].sum())
      16.0
    """
    return nnx.merge(graphdef, params)
