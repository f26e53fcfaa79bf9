"""(model_type of a config.json, task) -> class; the `Auto...` names. Imports no jax.

A further family is a file in families/ and a row in `FAMILIES`.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jaxbert.errors import InputError

if TYPE_CHECKING:
    from jaxbert.models.config import EncoderConfig

# What follows a family's name in the names of its classes, as Hugging Face calls them.
HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
)


class FamilyRow(NamedTuple):
    """Where a family is. prefix: of its class names. further: heads beside `HEADS`."""

    module: str
    prefix: str
    further: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of its configuration and its classes."""
        return tuple(f"{self.prefix}{name}" for name in ("Config", *HEADS, *self.further))


FAMILIES = {
    "bert": FamilyRow(
        "jaxbert.models.families.bert", "Bert", ("ForNextSentencePrediction", "ForPreTraining")
    ),
    "roberta": FamilyRow("jaxbert.models.families.roberta", "Roberta"),
    "xlm-roberta": FamilyRow("jaxbert.models.families.roberta", "XLMRoberta"),
    "distilbert": FamilyRow("jaxbert.models.families.distilbert", "DistilBert"),
    "electra": FamilyRow("jaxbert.models.families.electra", "Electra", ("ForPreTraining",)),
    "modernbert": FamilyRow("jaxbert.models.families.modernbert", "ModernBert"),
    "deberta-v2": FamilyRow("jaxbert.models.families.deberta_v2", "DebertaV2"),
    "mpnet": FamilyRow("jaxbert.models.families.mpnet", "MPNet"),
    "albert": FamilyRow("jaxbert.models.families.albert", "Albert"),
}


def config_class(model_type: str) -> type[EncoderConfig]:
    """The configuration of that family; see `model_class`."""
    return _named(model_type, "Config")


def model_class(model_type: str, head: str = "Model") -> Any:
    """The class of that family for that head, one of `HEADS` or of the family's own.

    Raises:
      InputError: no such family, or it has no such head; lists what there is.
    """
    return _named(model_type, head)


def _named(model_type: str, name: str) -> Any:
    row = FAMILIES.get(model_type)
    if row is None:
        raise InputError(
            f"model_type={model_type!r} is not a family that jaxbert knows: {', '.join(FAMILIES)}"
        )
    if f"{row.prefix}{name}" not in row.names:
        raise InputError(f"{model_type!r} has no {name!r}, it has {', '.join(row.names)}")
    return getattr(importlib.import_module(row.module), f"{row.prefix}{name}")


def presets() -> dict[str, str]:
    """{name of a published configuration: model_type}, of all families."""
    return {name: family for family in FAMILIES for name in config_class(family).presets}


def family_of_preset(name: str) -> str | None:
    """The model_type of the published configuration of that name; None where there is none.

    A family's file is read only if none before it has the name, and those are first whose own
    name is in it: `roberta-base` costs the import of one.

    Example:
      >>> family_of_preset("roberta-base"), family_of_preset("roberta-huge")
      ('roberta', None)
    """
    if "/" in name:  # a directory's, or of the hub
        return None
    likely = sorted(FAMILIES, key=lambda family: (family not in name, -len(family)))
    return next((family for family in likely if name in config_class(family).presets), None)


class AutoConfig:
    """The configuration of a model of any family.

    Example:
      >>> AutoConfig.preset("bert-tiny").model_type
      'bert'
    """

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str], *, revision: str | None = None
    ) -> EncoderConfig:
        """Of a Hugging Face directory or hub id. Raises as `EncoderConfig.from_hf`, and OSError."""
        from jaxbert.weights.directory import model_directory

        directory = model_directory(source, revision)
        hf = _read_config(directory)
        try:
            return config_class(hf["model_type"]).from_hf(hf)
        except InputError as error:
            raise InputError(f"{directory}: {error}") from None

    @staticmethod
    def preset(name: str, **overrides: Any) -> EncoderConfig:
        """The published configuration of that name; InputError where there is none."""
        family = family_of_preset(name)
        if family is None:
            raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(presets())}")
        return config_class(family).preset(name, **overrides)


def _read_config(directory: Path) -> dict[str, Any]:
    from jaxbert.weights.directory import read_config

    hf = read_config(directory)
    if not isinstance(hf.get("model_type"), str):
        raise InputError(
            f"{directory}/config.json does not say which family it is of: want model_type, one of "
            f"{', '.join(FAMILIES)}"
        )
    return hf


class AutoModel:
    """The encoder of a Hugging Face directory or hub id, whatever its family.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from jaxbert import BertConfig, BertModel
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     BertModel(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
      ...     type(AutoModel.from_pretrained(directory)).__name__
      'BertModel'
    """

    head: ClassVar[str] = "Model"

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, **options: Any
    ) -> Any:
        """The arguments of `PretrainedMixin.from_pretrained`, and what it raises."""
        from jaxbert.weights.directory import model_directory

        directory = model_directory(source, revision)  # once: a hub is asked over the network
        chosen = model_class(_read_config(directory)["model_type"], cls.head)
        return chosen.from_pretrained(directory, **options)


class AutoModelForSequenceClassification(AutoModel):
    """The same, with a head for a class or a number for each text.

    Example:
      >>> model_class("bert", AutoModelForSequenceClassification.head).__name__
      'BertForSequenceClassification'
    """

    head = "ForSequenceClassification"


class AutoModelForTokenClassification(AutoModel):
    """The same, with a head for a class for each token.

    Example:
      >>> model_class("bert", AutoModelForTokenClassification.head).__name__
      'BertForTokenClassification'
    """

    head = "ForTokenClassification"


class AutoModelForQuestionAnswering(AutoModel):
    """The same, with a head for the place of an answer.

    Example:
      >>> model_class("bert", AutoModelForQuestionAnswering.head).__name__
      'BertForQuestionAnswering'
    """

    head = "ForQuestionAnswering"


class AutoModelForMultipleChoice(AutoModel):
    """The same, with a head for one of several continuations.

    Example:
      >>> model_class("bert", AutoModelForMultipleChoice.head).__name__
      'BertForMultipleChoice'
    """

    head = "ForMultipleChoice"


class AutoModelForMaskedLM(AutoModel):
    """The same, with a head for the word at each position.

    Example:
      >>> model_class("bert", AutoModelForMaskedLM.head).__name__
      'BertForMaskedLM'
    """

    head = "ForMaskedLM"


AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForMaskedLM",
)
