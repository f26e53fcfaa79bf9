"""MPNet: Song et al. 2020. Read in transformers' modeling_mpnet.py (5.24).

Beside BERT: positions are counted from the ids, there are no token types, scores have a bias for
how far key and query are apart, and a classifier has two products.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxbert.models import heads, model
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig
from jaxbert.models.encoder import Embeddings
from jaxbert.models.positions import by_distance, distances
from jaxbert.models.primitives import Embedding
from jaxbert.weights.rename import Family, Head, Rename, linear, norm

_PADDING = 1  # whose position is; transformers has the number in its code, not in the configuration
_BUCKETS = 32  # as is this one: another number in a configuration makes a table that is not read
_MAX_DISTANCE = 128  # beyond which all distances are one


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPNetConfig(EncoderConfig):
    """The shape of an MPNet; see `EncoderConfig`. The defaults are mpnet-base.

    Example:
      >>> MPNetConfig.preset("mpnet-base").max_tokens
      512
    """

    model_type: ClassVar[str] = "mpnet"
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size", "classifier_dropout"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"mpnet-base": {}}

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    layer_norm_eps: float = 1e-5
    pad_token_id: int = _PADDING

    @property
    def position_padding(self) -> int:
        """See `EncoderConfig.position_padding`."""
        return _PADDING

    @property
    def prediction_act(self) -> str:
        """Whatever `hidden_act` is."""
        return "gelu"

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        del hf
        return {"relative_attention_num_buckets": (_BUCKETS, None)}


def distance_bucket(distance: np.ndarray) -> np.ndarray:
    """Which bias is for a query that stands so many tokens after its key, negative = before it.

    Half of the buckets are for each direction; of these half are for one distance each, and the
    others grow with the logarithm up to `_MAX_DISTANCE`.

    Reference: T5's bidirectional buckets (Raffel et al. 2020), in float32 as PyTorch has them.
    """
    half = _BUCKETS // 2
    exact = half // 2
    size = np.abs(distance)
    with np.errstate(divide="ignore"):
        growth = np.log(size.astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(_MAX_DISTANCE / exact)) * np.float32(half - exact)
    far = np.minimum(exact + np.maximum(growth, 0).astype(np.int64), half - 1)
    return np.where(distance < 0, half, 0) + np.where(size < exact, size, far)


class MPNetEmbeddings(Embeddings):
    """And the biases of distances, which belong to no layer."""

    def __init__(self, config: MPNetConfig, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(config, compute=compute, rngs=rngs)
        self.relative_attention_bias = Embedding(
            _BUCKETS,
            config.num_attention_heads,
            scale=config.spread,
            compute=compute,
            rngs=rngs,
        )

    def relative(self, length: int) -> Float[Array, "1 N L L"]:
        """The bias of each head for each query and key."""
        index = distance_bucket(distances(length))
        of_heads = self.relative_attention_bias(jnp.asarray(index)).T
        each = jnp.broadcast_to(of_heads[:, None], (of_heads.shape[0], length, index.size))
        return by_distance(each, length)[None]


_LAYER, _OURS = "encoder.layer.{i}", "layers/{i}"
_CLASSIFIER = linear("classifier", "classifier")
_TEXT = (*linear("classifier.dense", "dense"), *linear("classifier.out_proj", "classifier"))
_TABLES = {
    "embeddings.word_embeddings": "word_embeddings",
    "embeddings.position_embeddings": "position_embeddings",
    "encoder.relative_attention_bias": "relative_attention_bias",
}

MPNET = Family(
    prefix="mpnet",
    base="MPNetModel",
    encoder=(
        *(Rename(f"{a}.weight", f"embeddings/{b}/embedding") for a, b in _TABLES.items()),
        *norm("embeddings.LayerNorm", "embeddings/layer_norm"),
        *linear(f"{_LAYER}.attention.attn.q", f"{_OURS}/attention/query"),
        *linear(f"{_LAYER}.attention.attn.k", f"{_OURS}/attention/key"),
        *linear(f"{_LAYER}.attention.attn.v", f"{_OURS}/attention/value"),
        *linear(f"{_LAYER}.attention.attn.o", f"{_OURS}/attention/output"),
        *norm(f"{_LAYER}.attention.LayerNorm", f"{_OURS}/attention_norm"),
        *linear(f"{_LAYER}.intermediate.dense", f"{_OURS}/intermediate"),
        *linear(f"{_LAYER}.output.dense", f"{_OURS}/output"),
        *norm(f"{_LAYER}.output.LayerNorm", f"{_OURS}/output_norm"),
        *linear("pooler.dense", "pooler"),
    ),
    heads={
        "MPNetModel": Head(),
        "MPNetForSequenceClassification": Head(_TEXT, labelled="classifier.out_proj."),
        "MPNetForTokenClassification": Head(_CLASSIFIER, labelled="classifier."),
        "MPNetForMultipleChoice": Head(_CLASSIFIER),
        "MPNetForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "MPNetForMaskedLM": Head(
            (
                *linear("lm_head.dense", "predictions/transform"),
                *norm("lm_head.layer_norm", "predictions/layer_norm"),
                Rename("lm_head.bias", "predictions/bias"),
            ),
            copies=(
                ("lm_head.decoder.weight", "mpnet.embeddings.word_embeddings.weight"),
                ("lm_head.decoder.bias", "lm_head.bias"),
            ),
        ),
    },
    optional=("pooler.",),
    ambiguous=("classifier.",),
    buffers=(r"\bembeddings\.position_ids$",),
)


class MPNetModel(model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> MPNetModel.config_class is MPNetConfig
      True
    """

    family, config_class = MPNET, MPNetConfig
    embeddings_class = MPNetEmbeddings


class _MPNet(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = MPNET
    config_class: ClassVar[type[EncoderConfig]] = MPNetConfig
    base_class: ClassVar[type[model.EncoderModel]] = MPNetModel

    config: MPNetConfig


class MPNetForSequenceClassification(_MPNet, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    uses_pooler = False
    dense_activation = "tanh"


class MPNetForTokenClassification(_MPNet, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""


class MPNetForMultipleChoice(_MPNet, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""


class MPNetForQuestionAnswering(_MPNet, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""


class MPNetForMaskedLM(_MPNet, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""
