"""DeBERTa-v2 and -v3: He et al. 2021, 2023. Read in transformers' modeling_deberta_v2.py (5.24).

Beside BERT: attention scores have terms for how far query and key are apart, by projections of a
table of distances; there is no pooler. The convolution of v2-xlarge and v2-xxlarge is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert.errors import InputError
from jaxbert.models import heads, model
from jaxbert.models.attention import ATTENTION_SITE, SelfAttention, attention, with_biases
from jaxbert.models.compute import Compute
from jaxbert.models.config import EncoderConfig
from jaxbert.models.dropout import Dropout, dropout
from jaxbert.models.encoder import Embeddings
from jaxbert.models.families.bert import BERT, LARGE
from jaxbert.models.head_modules import DenseHead, LinearHead
from jaxbert.models.positions import by_distance, distances
from jaxbert.models.primitives import Embedding, LayerNorm, Linear, product
from jaxbert.models.visibility import Visibility, take_columns
from jaxbert.settings import is_count
from jaxbert.weights.rename import Family, Head, Rename, linear, norm

_TABLE_SITE = 1 << 17  # of dropout on the table of distances, beyond all others


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebertaV2Config(EncoderConfig):
    """The shape of a DeBERTa; see `EncoderConfig`. The defaults are deberta-v3-base.

    Attributes:
      position_biased_input: whether absolute positions are added to the embeddings.
      pos_att_type: which terms of the scores see distances: "c2p" the query's content and the
        key's place, "p2c" the key's content and the query's place.
      position_buckets: distances are one each up to half of it, then grow; at most 0 = always one.
      max_relative_positions: the distance at which they end; at most 0 = max_position_embeddings.
      share_att_key: distances are projected by the layer's own query and key projections.
      norm_rel_ebd: "layer_norm" or "none", of the table of distances.
      pooler_dropout, pooler_hidden_act: of the first product of the head for texts.

    Example:
      >>> DebertaV2Config.preset("deberta-v3-base").distance_rows
      512
    """

    model_type: ClassVar[str] = "deberta-v2"
    has_pooler: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {"classifier_dropout": "cls_dropout"}
    # legacy: which of two names its head for words has; both are read.
    harmless: ClassVar[frozenset[str]] = frozenset({"legacy"})
    computed_with: ClassVar[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
        "pos_att_type": (lambda value: isinstance(value, list | str | None), "a list"),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deberta-v3-xsmall": dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536),
        "deberta-v3-small": dict(num_hidden_layers=6),
        "deberta-v3-base": {},
        "deberta-v3-large": LARGE,
        "mdeberta-v3-base": dict(vocab_size=251000),
    }

    vocab_size: int = 128100
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-7
    position_biased_input: bool = False
    pos_att_type: tuple[str, ...] = ("p2c", "c2p")
    position_buckets: int = 256
    max_relative_positions: int = -1
    share_att_key: bool = True
    norm_rel_ebd: str = "layer_norm"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} must be a whole number, got {value!r}"
            for name in ("position_buckets", "max_relative_positions")
            if not is_count(value := getattr(self, name), -1)
        ]
        if any(kind not in ("p2c", "c2p") for kind in self.pos_att_type):
            problems.append(f"pos_att_type must hold c2p and p2c only, got {self.pos_att_type!r}")
        if problems:
            raise InputError(f"{type(self).__name__}: " + "; ".join(problems))

    @property
    def position_rows(self) -> int:
        """See `EncoderConfig.position_rows`."""
        return self.max_position_embeddings if self.position_biased_input else 0

    @property
    def furthest(self) -> int:
        """The distance at which they end."""
        return max(self.max_relative_positions, 0) or self.max_position_embeddings

    @property
    def distance_products(self) -> int:
        """See `EncoderConfig.distance_products`."""
        return len(self.pos_att_type)

    @property
    def distance_rows(self) -> int:
        """How many rows the table of distances has."""
        return 2 * (max(self.position_buckets, 0) or self.furthest)

    @classmethod
    def modernized(cls, hf: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `EncoderConfig.modernized`. What is left out has transformers' value, not v3's."""
        said = {
            "position_biased_input": True,
            "position_buckets": -1,
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "relative_attention": False,
            **hf,
        }
        kinds = said.get("pos_att_type") or ()
        if isinstance(kinds, str):
            kinds = [kind.strip() for kind in kinds.lower().split("|")]
        return {**said, "pos_att_type": tuple(kinds)}

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """See `EncoderConfig.required`."""
        width = hf.get("hidden_size", cls.hidden_size)
        return {
            "relative_attention": (True,),
            "norm_rel_ebd": ("layer_norm", "none"),
            "conv_kernel_size": (0, None),  # it mixes neighbours, also of packed texts
            "conv_act": ("tanh", "gelu", None),
            "embedding_size": (width, None),
            "pooler_hidden_size": (width, None),
            "attention_head_size": (width // hf.get("num_attention_heads", 1), None),
        }

    def to_hf(self) -> dict[str, Any]:
        """See `EncoderConfig.to_hf`."""
        return super().to_hf() | {"relative_attention": True}


def distance_bucket(distance: np.ndarray, buckets: int, furthest: int) -> np.ndarray:
    """Distances with one value each up to buckets / 2, and fewer as they grow; the sign stays.

    Reference: He et al. 2021, and `make_log_bucket_position` of transformers.
    """
    half = buckets // 2
    size = np.maximum(np.abs(distance), half).astype(np.float32)
    growth = np.log(size / np.float32(half)) / np.log(np.float32((furthest - 1) / half))
    grown = np.ceil(growth * np.float32(half - 1)).astype(np.int64) + half
    return np.where(np.abs(distance) <= half, distance, np.sign(distance) * grown)


class DebertaV2Embeddings(Embeddings):
    """And the table of distances, which belongs to no layer."""

    def __init__(self, config: DebertaV2Config, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(config, compute=compute, rngs=rngs)
        width = config.hidden_size
        self.relative_embeddings = Embedding(
            config.distance_rows, width, scale=config.spread, compute=compute, rngs=rngs
        )
        self.relative_norm = (
            LayerNorm(width, epsilon=config.layer_norm_eps, compute=compute)
            if config.norm_rel_ebd == "layer_norm"
            else None
        )

    def relative(self, length: int) -> Float[Array, "R D"]:
        """The table, normalized."""
        del length
        table = self.relative_embeddings.embedding[...]
        return table if self.relative_norm is None else self.relative_norm(table)


class DisentangledSelfAttention(SelfAttention):
    """Attention by content, and by content and distance.

    score[q, k] = (Q_q K_k + Q_q KR_b + K_k QR_b) / sqrt(3 H), with b the bucket of q - k and KR, QR
    projections of the table of distances.

    Reference: He et al. 2021, equations 2 to 4.
    """

    def __init__(self, config: DebertaV2Config, *, index: int, compute: Compute, rngs: nnx.Rngs):
        super().__init__(config, index=index, compute=compute, rngs=rngs)

        def project(kind: str) -> Linear | None:
            if config.share_att_key or kind not in config.pos_att_type:
                return None
            width, scale = config.hidden_size, config.spread
            return Linear(width, width, scale=scale, compute=compute, rngs=rngs)

        self.position_key, self.position_query = project("c2p"), project("p2c")
        self.config = config

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B L D"],
        visibility: Visibility,
        relative: Float[Array, "R D"] | None = None,
        dropout: Dropout | None = None,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """See `SelfAttention`; where few tokens ask, the scores of all are computed.

        relative: the table of distances.
        """
        assert relative is not None  # DebertaV2Embeddings has it
        *projected, biases = self._project(x, None)
        query, key, value = with_biases(tuple(projected), biases)
        scale = (query.shape[-1] * (1 + len(self.config.pos_att_type))) ** -0.5
        context = attention(
            query,
            key,
            value,
            visibility,
            bias=self._by_distance(query, key, relative, dropout) * scale,
            scale=scale,
            rate=self.rate,
            site=ATTENTION_SITE,
            dropout=dropout,
            compute=self.compute,
        )
        return self.output.unbiased(take_columns(context.reshape(x.shape), columns))

    def _by_distance(
        self, query: Array, key: Array, table: Array, state: Dropout | None
    ) -> Float[Array, "B N L L"]:
        """The terms of the scores that see distances, unscaled."""
        length, kinds = query.shape[1], self.config.pos_att_type
        if state is not None:
            rows = jnp.arange(table.shape[0], dtype=jnp.uint32)[None]
            rate = self.config.hidden_dropout_prob
            table = dropout(table[None], rate, _TABLE_SITE, state._replace(token_index=rows))[0]
        score = jnp.zeros((1, 1, 1, 1), self.compute.activation_dtype)
        if "c2p" in kinds:
            place = self._places(self.position_key or self.key, table, distances(length))
            by_query = product("bqnh,dnh->bnqd", query, place, self.compute)
            score = score + by_distance(by_query, length)
        if "p2c" in kinds:
            place = self._places(self.position_query or self.query, table, -distances(length))
            by_key = product("bknh,dnh->bnkd", key, place, self.compute)
            score = score + by_distance(by_key, length).swapaxes(-1, -2)
        return score

    def _places(self, project: Linear, table: Array, distance: np.ndarray) -> Array:
        """[2L-1, N, H]: of each distance, its row of the projected table."""
        config, span = self.config, table.shape[0] // 2
        if config.position_buckets > 0:
            distance = distance_bucket(distance, config.position_buckets, config.furthest)
        rows = np.clip(distance + span, 0, 2 * span - 1)
        return project(table).reshape(2 * span, self.heads, -1)[rows]


_LAYER, _OURS = "encoder.layer.{i}", "layers/{i}"
_CLASSIFIER = linear("classifier", "classifier")
_TEXT = (*linear("pooler.dense", "dense"), *_CLASSIFIER)
_THEIRS = {"query": "query_proj", "key": "key_proj", "value": "value_proj"} | {
    "position_key": "pos_key_proj",
    "position_query": "pos_query_proj",
}

DEBERTA_V2 = Family(
    prefix="deberta",
    base="DebertaV2Model",
    encoder=(
        *(row for row in BERT.encoder if ".self." not in row.theirs and "pooler" not in row.theirs),
        *(
            row
            for ours, theirs in _THEIRS.items()
            for row in linear(f"{_LAYER}.attention.self.{theirs}", f"{_OURS}/attention/{ours}")
        ),
        Rename("encoder.rel_embeddings.weight", "embeddings/relative_embeddings/embedding"),
        *norm("encoder.LayerNorm", "embeddings/relative_norm"),
    ),
    heads={
        "DebertaV2Model": Head(),
        "DebertaV2ForSequenceClassification": Head(_TEXT, labelled="classifier."),
        "DebertaV2ForTokenClassification": Head(_CLASSIFIER, labelled="classifier."),
        "DebertaV2ForMultipleChoice": Head(_TEXT),
        "DebertaV2ForQuestionAnswering": Head(linear("qa_outputs", "qa_outputs"), num_labels=2),
        "DebertaV2ForMaskedLM": Head(
            (
                *linear("cls.predictions.transform.dense", "predictions/transform"),
                *norm("cls.predictions.transform.LayerNorm", "predictions/layer_norm"),
                Rename("cls.predictions.bias", "predictions/bias"),
            ),
            copies=(
                ("cls.predictions.decoder.weight", "deberta.embeddings.word_embeddings.weight"),
                ("cls.predictions.decoder.bias", "cls.predictions.bias"),
            ),
        ),
    },
    ambiguous=("classifier.", "pooler."),
    spellings=(
        (r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.", r"cls.predictions.transform.\1."),
        (r"^lm_predictions\.lm_head\.bias$", "cls.predictions.bias"),
    ),
    # The other one is of pre-training by replaced words, and nothing here reads it.
    buffers=(r"\bembeddings\.position_ids$", r"^mask_predictions\."),
)


class DebertaV2Model(model.EncoderModel):
    """See `model.EncoderModel`.

    Example:
      >>> DebertaV2Model.config_class is DebertaV2Config
      True
    """

    family, config_class = DEBERTA_V2, DebertaV2Config
    embeddings_class, attention_class = DebertaV2Embeddings, DisentangledSelfAttention


class _DebertaV2(model.Model):
    """What all classes of the family have."""

    family: ClassVar[Family] = DEBERTA_V2
    config_class: ClassVar[type[EncoderConfig]] = DebertaV2Config
    base_class: ClassVar[type[model.EncoderModel]] = DebertaV2Model
    uses_pooler: ClassVar[bool] = False

    config: DebertaV2Config


class DebertaV2ForSequenceClassification(_DebertaV2, heads.ForSequenceClassification):
    """See `heads.ForSequenceClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _text_head(self, self.config.num_labels, rngs)


class DebertaV2ForTokenClassification(_DebertaV2, heads.ForTokenClassification):
    """See `heads.ForTokenClassification`."""

    def make_head(self, rngs: nnx.Rngs) -> LinearHead:
        """With the encoder's dropout: `classifier_dropout` is for texts only."""
        rate = self.config.hidden_dropout_prob
        return LinearHead(self, "classifier", self.config.num_labels, rngs, rate=rate)


class DebertaV2ForMultipleChoice(_DebertaV2, heads.ForMultipleChoice):
    """See `heads.ForMultipleChoice`."""

    def make_head(self, rngs: nnx.Rngs) -> DenseHead:
        """See `heads.TaskModel.make_head`."""
        return _text_head(self, 1, rngs)


class DebertaV2ForQuestionAnswering(_DebertaV2, heads.ForQuestionAnswering):
    """See `heads.ForQuestionAnswering`."""


class DebertaV2ForMaskedLM(_DebertaV2, heads.ForMaskedLM):
    """See `heads.ForMaskedLM`."""


def _text_head(task: Any, outputs: int, rngs: nnx.Rngs) -> DenseHead:
    config: DebertaV2Config = task.config
    rates = (config.pooler_dropout, config.classifier_dropout_prob)
    activation = config.pooler_hidden_act
    return DenseHead(task, outputs, rngs, activation=activation, rates=rates)
