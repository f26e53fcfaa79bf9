"""How Hugging Face names the parameters of each family of models: BERT, as data.

A further family is a further `Family`: its rows, its heads, and what its files may look like.
"""

from __future__ import annotations

from jaxbert.weights.rename import Family, Head, Rename


def _linear(theirs: str, ours: str) -> tuple[Rename, ...]:
    return (
        Rename(f"{theirs}.weight", f"{ours}/kernel", transpose=True),
        Rename(f"{theirs}.bias", f"{ours}/bias"),
    )


def _norm(theirs: str, ours: str) -> tuple[Rename, ...]:
    return Rename(f"{theirs}.weight", f"{ours}/scale"), Rename(f"{theirs}.bias", f"{ours}/bias")


def _table(name: str) -> Rename:
    return Rename(f"embeddings.{name}.weight", f"embeddings/{name}/embedding")


_LAYER, _OURS = "encoder.layer.{i}", "encoder/layers/{i}"

_ENCODER = (
    _table("word_embeddings"),
    _table("position_embeddings"),
    _table("token_type_embeddings"),
    *_norm("embeddings.LayerNorm", "embeddings/layer_norm"),
    *_linear(f"{_LAYER}.attention.self.query", f"{_OURS}/attention/query"),
    *_linear(f"{_LAYER}.attention.self.key", f"{_OURS}/attention/key"),
    *_linear(f"{_LAYER}.attention.self.value", f"{_OURS}/attention/value"),
    *_linear(f"{_LAYER}.attention.output.dense", f"{_OURS}/attention/output"),
    *_norm(f"{_LAYER}.attention.output.LayerNorm", f"{_OURS}/attention_norm"),
    *_linear(f"{_LAYER}.intermediate.dense", f"{_OURS}/intermediate"),
    *_linear(f"{_LAYER}.output.dense", f"{_OURS}/output"),
    *_norm(f"{_LAYER}.output.LayerNorm", f"{_OURS}/output_norm"),
    *_linear("pooler.dense", "pooler"),
)
_CLASSIFIER = _linear("classifier", "classifier")
_PREDICTIONS = (
    *_linear("cls.predictions.transform.dense", "predictions/transform"),
    *_norm("cls.predictions.transform.LayerNorm", "predictions/layer_norm"),
    Rename("cls.predictions.bias", "predictions/bias"),
)
_NEXT_SENTENCE = _linear("cls.seq_relationship", "seq_relationship")
# The decoder is the word embedding; old files hold it, and its bias, again under these names.
_TIED = (
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)

BERT = Family(
    prefix="bert",
    base="BertModel",
    encoder=_ENCODER,
    heads={
        "BertModel": Head(),
        "BertForSequenceClassification": Head(_CLASSIFIER, labelled=True),
        "BertForTokenClassification": Head(_CLASSIFIER, labelled=True),
        "BertForMultipleChoice": Head(_CLASSIFIER),
        "BertForQuestionAnswering": Head(_linear("qa_outputs", "qa_outputs"), num_labels=2),
        "BertForNextSentencePrediction": Head(_NEXT_SENTENCE),
        "BertForMaskedLM": Head(_PREDICTIONS, copies=_TIED),
        "BertForPreTraining": Head((*_PREDICTIONS, *_NEXT_SENTENCE), copies=_TIED),
    },
    optional=("pooler.",),
    ambiguous=("classifier.",),
    # Names of files converted from Google's TensorFlow checkpoints.
    spellings=(
        (r"\bLayerNorm\.gamma$", "LayerNorm.weight"),
        (r"\bLayerNorm\.beta$", "LayerNorm.bias"),
    ),
    buffers=(r"\bembeddings\.(position_ids|token_type_ids)$",),
)
