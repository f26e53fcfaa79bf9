"""What an encoder computes, `EncoderConfig`: frozen, hashable, checked. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from jaxbert.errors import InputError
from jaxbert.models.config_checks import (
    COMPUTED_WITH,
    choice_problems,
    labels_from_hf,
    settings_from_hf,
    size_problems,
    thresholds_from_hf,
)
from jaxbert.settings import check_kinds

# Options of a Hugging Face config.json that change what any encoder computes, with the values under
# which it is what is implemented here. Any other value is refused by name.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "position_embedding_type": ("absolute", None),
}
# Keys that change nothing that is computed here: what `transformers`, old and new, writes into
# every configuration, and the settings of text generation, which an encoder does not do.
_HARMLESS = frozenset(
    """
    architectures auto_map bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cls_token_id decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
    is_composition keys_to_ignore_at_inference label2id length_penalty mask_token_id max_length
    min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_labels
    num_return_sequences output_attentions output_hidden_states output_past output_scores prefix
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p unk_token_id use_bfloat16 use_cache
    use_return_dict
    """.split()  # noqa: SIM905 (a hundred quotes would not help)
)

# What config.json says of the tokenizer beside the padding: kept, for others who read it.
_SPECIAL = ("bos_token_id", "cls_token_id", "eos_token_id", "mask_token_id", "sep_token_id")


class DropoutRates(NamedTuple):
    """Where an encoder drops, and how much of it.

    embeddings: their output. probabilities: of attention. attention: its output. inner: of the
    feed-forward, before its second product. output: of the feed-forward. A family has `inner` or
    `output`, not both: they are one site.
    """

    embeddings: float
    probabilities: float
    attention: float
    inner: float
    output: float


class Spread(NamedTuple):
    """Initial values are drawn from normal(0, std), none beyond `cutoff` times std (None = any)."""

    std: float
    cutoff: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What an encoder computes, in Hugging Face's words. Each family has a subclass.

    A subclass gives defaults, and sets what all networks of its family have in common:

      model_type: Hugging Face's name of the family.
      norm: "post": LayerNorm after each residual sum; "pre": before each block, and one at the end.
      feed_forward: "dense": act(x W1) W2; "gated": (act(x W1) * (x Wg)) W2, both in one kernel.
      bias: whether the encoder's products and LayerNorms have one.
      fused_projections: query, key and value are one product.
      first_norm: whether layer 0 of a pre-norm encoder has a norm before its attention.
      has_pooler: whether the encoder can have one.
      renamed: {field: its key in config.json}, where the family has a word of its own.
      harmless: keys of the family's that change nothing computed here.
      computed_with: {key of config.json: (what its value must be, in words)}, for those that
        `modernized` and `required` compute with, before fields are checked.
      fixed: fields that config.json has no word for: the family's networks all have the default.
      presets: {name of a published configuration: its fields}.

    Attributes:
      type_vocab_size: 0 = there are no token types.
      hidden_act: feed-forward activation; "gelu" is the erf form, as in Hugging Face. (Google's
        original code computes the tanh form, which Hugging Face calls "gelu_new".)
      classifier_dropout: rate in front of a classifier; None means `hidden_dropout_prob`.
      id2label: class names in index order, all different; None when they have no names.
      problem_type: one of `PROBLEM_TYPES`; None when not fixed yet.
      thresholds: (name, value) of what decides on what the model says, tuned on labelled examples;
        under `task_specific_params` in config.json, as are
      settings: (name, value) of how its texts were read in training, and are to be read again:
        max_length, and options of its task.
      special_token_ids: (key, id) of what config.json says of the tokenizer, which nothing here
        reads, and others do.

    Raises:
      InputError: naming every field whose value cannot be computed.

    Example:
      >>> from jaxbert import BertConfig
      >>> config = BertConfig(hidden_size=16, num_attention_heads=2, id2label=("no", "yes"))
      >>> config.head_width, config.to_hf()["id2label"]
      (8, {'0': 'no', '1': 'yes'})
    """

    model_type: ClassVar[str]
    norm: ClassVar[str] = "post"
    feed_forward: ClassVar[str] = "dense"
    bias: ClassVar[bool] = True
    fused_projections: ClassVar[bool] = False
    first_norm: ClassVar[bool] = True
    has_pooler: ClassVar[bool] = True
    renamed: ClassVar[Mapping[str, str]] = {}
    harmless: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[frozenset[str]] = frozenset()
    computed_with: ClassVar[Mapping[str, tuple[Callable[[Any], bool], str]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 0
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    num_labels: int = 2
    id2label: tuple[str, ...] | None = None
    problem_type: str | None = None
    thresholds: tuple[tuple[str, float], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    special_token_ids: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        problems = [*size_problems(self), *choice_problems(self)]
        if problems:
            raise InputError(f"{type(self).__name__}: " + "; ".join(problems))
        try:
            check_kinds(self)  # and of what a family adds
        except InputError as error:
            raise InputError(f"{type(self).__name__}: {error}") from None

    @property
    def head_width(self) -> int:
        """H = D / N."""
        return self.hidden_size // self.num_attention_heads

    @property
    def classifier_dropout_prob(self) -> float:
        """The rate in front of a classifier."""
        rate = self.classifier_dropout
        return self.hidden_dropout_prob if rate is None else rate

    @property
    def dropout_rates(self) -> DropoutRates:
        """Of the encoder."""
        rate = self.hidden_dropout_prob
        return DropoutRates(rate, self.attention_probs_dropout_prob, rate, 0.0, rate)

    @property
    def spread(self) -> Spread:
        """Of initial values."""
        return Spread(self.initializer_range)

    @property
    def output_spread(self) -> Spread:
        """The same of the last products of attention and feed-forward, and a head's first."""
        return self.spread

    @property
    def prediction_act(self) -> str:
        """The activation of the head that predicts words."""
        return self.hidden_act

    @property
    def embedding_width(self) -> int:
        """Of the embedding tables; a projection leads to D where it is not D."""
        return self.hidden_size

    @property
    def projects_embeddings(self) -> bool:
        """Whether there is such a projection."""
        return self.embedding_width != self.hidden_size

    @property
    def position_rows(self) -> int:
        """How many rows the table of absolute positions has; 0 = there is none."""
        return self.max_position_embeddings

    @property
    def position_padding(self) -> int | None:
        """The token id that has no position: tokens of others count from the row after its own.

        None = a token's position is its column, whatever it is.
        """
        return None

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model is meant for."""
        padding = self.position_padding
        return self.max_position_embeddings - (0 if padding is None else padding + 1)

    @property
    def num_layer_groups(self) -> int:
        """How many layers have parameters of their own."""
        return self.num_hidden_layers

    def layer_group(self, layer: int) -> int:
        """Whose parameters layer `layer` has."""
        return layer

    def window(self, layer: int) -> int | None:
        """How far from a token layer `layer` lets it look, in tokens; None = over the row."""
        del layer
        return None

    def rotary_theta(self, layer: int) -> float | None:
        """The base of the rotation of queries and keys in layer `layer`; None = there is none."""
        del layer
        return None

    @property
    def distance_products(self) -> int:
        """How many products a layer has of its tokens with all distances in the row."""
        return 0

    @property
    def distance_rows(self) -> int:
        """How many rows of a table of distances a layer projects for each of them."""
        return 0

    @property
    def reads_first_token(self) -> bool:
        """Whether a classifier of texts reads no more of the last layer."""
        return True

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The published configuration called `name` (a key of `presets`)."""
        if name not in cls.presets:
            raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(cls.presets)}")
        return cls(**(dict(cls.presets[name]) | overrides))

    @classmethod
    def modernized(cls, hf: Mapping[str, Any]) -> Mapping[str, Any]:
        """The contents of a config.json in the words that `from_hf` knows, from older ones."""
        return hf

    @classmethod
    def required(cls, hf: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        """{key of config.json that changes the computation: the values that are implemented}."""
        del hf
        return {}

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Self:
        """Reads the contents of a Hugging Face config.json.

        Raises:
          InputError: naming every key that asks for what would be computed wrongly, and every key
            that is neither implemented nor known to be harmless.
        """
        odd = [
            f"{key}={hf[key]!r} (want {word})"
            for key, (can_be, word) in {**COMPUTED_WITH, **cls.computed_with}.items()
            if key in hf and not can_be(hf[key])
        ]
        if odd:
            raise InputError(f"config.json holds what is no such thing: {'; '.join(odd)}")
        hf = cls.modernized(hf)
        theirs = {field.name: cls.renamed.get(field.name, field.name) for field in _fields(cls)}
        required = {"model_type": (cls.model_type,), **_REQUIRED, **cls.required(hf)}
        wrong = [
            f"{key}={hf[key]!r} (supported: {allowed[0]!r})"
            for key, allowed in required.items()
            if key in hf and hf[key] not in allowed
        ]
        known = {*theirs.values(), *required, *_HARMLESS, *cls.harmless}
        wrong += [
            f"{key}={value!r} (unknown; delete it if it changes nothing that is computed)"
            for key, value in hf.items()
            if key not in known and value is not None and not key.startswith("_")
        ]
        if wrong:
            raise InputError(
                "config.json asks for what jaxbert would compute wrongly: " + "; ".join(wrong)
            )
        special = tuple((key, hf[key]) for key in _SPECIAL if isinstance(hf.get(key), int))
        said = {field: hf[key] for field, key in theirs.items() if key in hf}
        return cls(
            **said,
            **labels_from_hf(hf),
            thresholds=thresholds_from_hf(hf),
            settings=settings_from_hf(hf),
            special_token_ids=special,
        )

    def to_hf(self) -> dict[str, Any]:
        """The same as the contents of a Hugging Face config.json."""
        said = {
            self.renamed.get(f.name, f.name): getattr(self, f.name) for f in _fields(type(self))
        }
        hf = {key: list(x) if isinstance(x, tuple) else x for key, x in said.items()}
        labels = self.id2label or tuple(f"LABEL_{i}" for i in range(self.num_labels))
        # transformers takes the number of labels from id2label, and refuses to be told twice.
        hf["id2label"] = {str(i): label for i, label in enumerate(labels)}
        hf["label2id"] = {label: i for i, label in enumerate(labels)}
        hf |= {"model_type": self.model_type, **dict(self.special_token_ids)}
        of_task = {"thresholds": dict(self.thresholds), "settings": dict(self.settings)}
        if any(of_task.values()):
            hf["task_specific_params"] = {name: found for name, found in of_task.items() if found}
        return {key: hf[key] for key in sorted(hf) if hf[key] is not None}


def _fields(cls: type[EncoderConfig]) -> list[dataclasses.Field[Any]]:
    """Those that stand in config.json as they are; labels have a form of their own there."""
    elsewhere = {"id2label", "num_labels", "thresholds", "settings", "special_token_ids"}
    elsewhere |= cls.fixed
    return [f for f in dataclasses.fields(cls) if f.name not in elsewhere]
