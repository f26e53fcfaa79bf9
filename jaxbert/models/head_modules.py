"""What stands on an encoder: the products that make logits of its vectors."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxbert.errors import InputError
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig, Spread
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.model import Model
from jaxbert.models.primitives import LayerNorm, Linear, activation_function, product

CLASSIFIER_SITE = 1 << 16  # beyond the sites of any encoder


class LinearHead(nnx.Module):
    """Dropout and one product, under a name of its own: `head/classifier/kernel`.

    Args:
      name: of the product, as the family's files call it.
      rate: of the dropout.
    """

    def __init__(self, model: Model, name: str, outputs: int, rngs: nnx.Rngs, *, rate: float = 0.0):
        width, scale = model.config.hidden_size, model.config.spread
        linear = Linear(width, outputs, scale=scale, compute=model.compute, rngs=rngs)
        setattr(self, name, linear)
        self.name = name
        self.rate = rate

    def __call__(self, x: Float[Array, "*rows D"], state: Dropout | None = None) -> Array:
        logits = getattr(self, self.name)(dropout(x, self.rate, CLASSIFIER_SITE, state))
        return float32(logits)


class DenseHead(nnx.Module):
    """Dropout, a product, its activation and perhaps LayerNorm, dropout, and the last product.

    Args:
      activation: a `hidden_act`, or None.
      rates: of the first dropout and of the second.
      norm: whether there is a LayerNorm after the activation. bias: whether it and the first
        product have one.
      scale: of the last product's initial values; None = as others.
    """

    def __init__(
        self,
        model: Model,
        outputs: int,
        rngs: nnx.Rngs,
        *,
        activation: str | None,
        rates: tuple[float, float],
        norm: bool = False,
        bias: bool = True,
        scale: Spread | None = None,
    ):
        config, compute = model.config, model.compute
        width, first, last = config.hidden_size, config.output_spread, scale or config.spread
        self.dense = Linear(width, width, scale=first, compute=compute, rngs=rngs, bias=bias)
        self.layer_norm = (
            LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute, bias=bias)
            if norm
            else None
        )
        self.classifier = Linear(width, outputs, scale=last, compute=compute, rngs=rngs)
        self.activation = None if activation is None else activation_function(activation, compute)
        self.first_rate, self.second_rate = rates

    def __call__(self, x: Float[Array, "*rows D"], state: Dropout | None = None) -> Array:
        x = self.dense(dropout(x, self.first_rate, CLASSIFIER_SITE, state))
        if self.activation is not None:
            x = self.activation(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return float32(self.classifier(dropout(x, self.second_rate, CLASSIFIER_SITE + 1, state)))


class PredictionHead(nnx.Module):
    """Hidden states -> scores of every word, through the transposed word embedding."""

    def __init__(self, config: EncoderConfig, *, compute: Compute, rngs: nnx.Rngs):
        width, scale = config.embedding_width, config.output_spread
        self.transform = Linear(
            config.hidden_size, width, scale=scale, compute=compute, rngs=rngs, bias=config.bias
        )
        self.layer_norm = LayerNorm(
            width, epsilon=config.layer_norm_eps, compute=compute, bias=config.bias
        )
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,), jnp.dtype(compute.param_dtype)))
        self.activation = activation_function(config.prediction_act, compute)
        self.compute = compute

    def __call__(
        self, hidden: Float[Array, "B L D"], word_embeddings: Float[Array, "V E"]
    ) -> Float[Array, "B L V"]:
        x = self.layer_norm(self.activation(self.transform(hidden)))
        scores = float32(product("bld,vd->blv", x, word_embeddings, self.compute))
        return scores + float32(self.bias[...])[None, None]


class WordHead(nnx.Module):
    """The word predictions and, for pre-training, beside them the next sentence's."""

    def __init__(self, model: Model, rngs: nnx.Rngs, *, next_sentence: bool):
        config, compute = model.config, model.compute
        if not config.tie_word_embeddings:
            raise InputError(
                "tie_word_embeddings=False: the word prediction head here always uses the word "
                "embedding as its decoder, as every published model does"
            )
        self.predictions = PredictionHead(config, compute=compute, rngs=rngs)
        self.seq_relationship = (
            Linear(config.hidden_size, 2, scale=config.spread, compute=compute, rngs=rngs)
            if next_sentence
            else None
        )


def float32(x: Array) -> Array:
    return x.astype(jnp.float32)
