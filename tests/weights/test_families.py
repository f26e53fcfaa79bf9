"""BERT's names, spelled out by hand, against the rows and against the models' own parameters."""

import jax
import pytest
from flax import nnx

import jaxbert.models as models
from jaxbert.models import BertConfig
from jaxbert.models.families.bert import BERT
from jaxbert.weights.rename import Rename, pair

ENCODER = {
    "embeddings.word_embeddings.weight": "embeddings/word_embeddings/embedding",
    "embeddings.position_embeddings.weight": "embeddings/position_embeddings/embedding",
    "embeddings.token_type_embeddings.weight": "embeddings/token_type_embeddings/embedding",
    "embeddings.LayerNorm.weight": "embeddings/layer_norm/scale",
    "embeddings.LayerNorm.bias": "embeddings/layer_norm/bias",
}
for i in range(2):
    ENCODER |= {
        f"encoder.layer.{i}.{theirs}": f"layers/{i}/{ours}"
        for theirs, ours in {
            "attention.self.query.weight": "attention/query/kernel",
            "attention.self.query.bias": "attention/query/bias",
            "attention.self.key.weight": "attention/key/kernel",
            "attention.self.key.bias": "attention/key/bias",
            "attention.self.value.weight": "attention/value/kernel",
            "attention.self.value.bias": "attention/value/bias",
            "attention.output.dense.weight": "attention/output/kernel",
            "attention.output.dense.bias": "attention/output/bias",
            "attention.output.LayerNorm.weight": "attention_norm/scale",
            "attention.output.LayerNorm.bias": "attention_norm/bias",
            "intermediate.dense.weight": "intermediate/kernel",
            "intermediate.dense.bias": "intermediate/bias",
            "output.dense.weight": "output/kernel",
            "output.dense.bias": "output/bias",
            "output.LayerNorm.weight": "output_norm/scale",
            "output.LayerNorm.bias": "output_norm/bias",
        }.items()
    }
POOLER = {"pooler.dense.weight": "pooler/kernel", "pooler.dense.bias": "pooler/bias"}
CLASSIFIER = {
    "classifier.weight": "head/classifier/kernel",
    "classifier.bias": "head/classifier/bias",
}
PREDICTIONS = {
    "cls.predictions.transform.dense.weight": "head/predictions/transform/kernel",
    "cls.predictions.transform.dense.bias": "head/predictions/transform/bias",
    "cls.predictions.transform.LayerNorm.weight": "head/predictions/layer_norm/scale",
    "cls.predictions.transform.LayerNorm.bias": "head/predictions/layer_norm/bias",
    "cls.predictions.bias": "head/predictions/bias",
}
NEXT_SENTENCE = {
    "cls.seq_relationship.weight": "head/seq_relationship/kernel",
    "cls.seq_relationship.bias": "head/seq_relationship/bias",
}
ANSWERS = {"qa_outputs.weight": "head/qa_outputs/kernel", "qa_outputs.bias": "head/qa_outputs/bias"}


def inside(names):
    return {f"bert.{theirs}": f"encoder/{ours}" for theirs, ours in names.items()}


NAMES = {
    "BertModel": ENCODER | POOLER,
    "BertForSequenceClassification": inside(ENCODER | POOLER) | CLASSIFIER,
    "BertForMultipleChoice": inside(ENCODER | POOLER) | CLASSIFIER,
    "BertForTokenClassification": inside(ENCODER) | CLASSIFIER,
    "BertForQuestionAnswering": inside(ENCODER) | ANSWERS,
    "BertForNextSentencePrediction": inside(ENCODER | POOLER) | NEXT_SENTENCE,
    "BertForMaskedLM": inside(ENCODER) | PREDICTIONS,
    "BertForPreTraining": inside(ENCODER | POOLER) | PREDICTIONS | NEXT_SENTENCE,
}


def leaves(architecture):
    config = BertConfig(num_hidden_layers=2)
    model = nnx.eval_shape(lambda: getattr(models, architecture)(config, rngs=nnx.Rngs(0)))
    flat, _ = jax.tree_util.tree_flatten_with_path(models.split_model(model)[1])
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


@pytest.mark.parametrize("architecture", NAMES)
def test_the_rows_are_one_to_one_on_the_model_and_are_these(architecture):
    pairs = pair(BERT.rows(architecture), leaves(architecture))
    assert {row.theirs: row.ours for row in pairs} == NAMES[architecture]


@pytest.mark.parametrize("architecture", NAMES)
def test_exactly_the_kernels_are_transposed(architecture):
    for row in BERT.rows(architecture):
        assert row.transpose == row.ours.endswith("/kernel"), row


def test_every_architecture_is_here():
    assert BERT.heads.keys() == NAMES.keys()


def test_every_original_of_a_copy_is_a_tensor_of_its_architecture():
    copies = [(name, copy) for name, head in BERT.heads.items() for copy in head.copies]
    assert {name for name, _ in copies} == {"BertForMaskedLM", "BertForPreTraining"}
    for architecture, (copy, original) in copies:
        assert original in NAMES[architecture]
        assert copy not in NAMES[architecture]


def test_a_misspelled_row_does_not_go_unseen():
    rows = [
        Rename("x", "embeddings/layer_norm/gamma") if row.ours.endswith("norm/scale") else row
        for row in BERT.rows("BertModel")
    ]
    with pytest.raises(ValueError, match="embeddings/layer_norm/scale must have one row, got 0"):
        pair(rows, leaves("BertModel"))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        (
            "bert.encoder.layer.3.output.LayerNorm.beta",
            "bert.encoder.layer.3.output.LayerNorm.bias",
        ),
        ("cls.predictions.transform.LayerNorm.gamma", "cls.predictions.transform.LayerNorm.weight"),
        ("pooler.dense.bias", "bert.pooler.dense.bias"),
        ("classifier.weight", "classifier.weight"),
    ],
)
def test_spellings(name, full):
    assert BERT.full_name(name) == full


def test_buffers_are_no_parameters():
    buffers = ["embeddings.position_ids", "bert.embeddings.position_ids"]
    assert BERT.full_names([*buffers, "bert.embeddings.token_type_ids"]) == {}
