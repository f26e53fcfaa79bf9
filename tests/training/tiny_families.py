"""A tiny network of every family, with what it has of its own, and dropout wherever it can drop."""

import tiny

from jaxbert.models.auto import config_class

RATE = 0.3
DROPPING = dict(hidden_dropout_prob=RATE, attention_probs_dropout_prob=RATE)
# {family: fields of its configuration}; BERT is what `tiny` has.
OWN = {
    "roberta": dict(num_hidden_layers=1),
    "xlm-roberta": dict(num_hidden_layers=1, pad_token_id=3),
    "distilbert": dict(num_hidden_layers=1, classifier_dropout=RATE),
    "electra": dict(num_hidden_layers=1, embedding_size=8),
    "modernbert": dict(embedding_dropout=RATE, classifier_dropout=RATE, local_attention=6)
    | dict(classifier_pooling="mean", pad_token_id=0),
    "deberta-v2": dict(num_hidden_layers=1, pooler_dropout=RATE, position_buckets=8),
    "mpnet": dict(num_hidden_layers=1),
    "albert": dict(num_hidden_layers=2, embedding_size=8, classifier_dropout=RATE),
}


def config(family, **fields):
    """With those fields instead."""
    found = config_class(family)
    shape = tiny.SHAPE | dict(max_position_embeddings=24) | DROPPING | OWN[family]
    if "type_vocab_size" not in found.fixed and family not in ("modernbert", "deberta-v2"):
        shape["type_vocab_size"] = 2
    return found(**shape | fields)
