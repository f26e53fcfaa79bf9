"""Training with dropout beside `transformers`, which is given the masks that ours draws."""

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from test_training_torch import ALIKE, EQUAL, FEWER, LONGEST, SHAPE, assert_follows

from jaxbert.models import Dropout, dropout_key
from jaxbert.models.dropout import attention_bits, attention_token_bits, dropout, masked
from jaxbert.models.encoder import EMBEDDINGS_SITE, SITES_PER_LAYER
from jaxbert.models.head_modules import CLASSIFIER_SITE

RATES = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)


class Masks:
    """The masks of a BERT classifier's dropouts, in the order in which a forward pass asks.

    Of rows that begin with their first token; a row's number is its example's place in the batch.
    """

    def __init__(self, monkeypatch, model):
        self._step, self._asked, self._layers = -1, 0, model.config.num_hidden_layers
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        monkeypatch.setattr(
            torch.nn.Dropout, "forward", lambda module, x: self._on_features(x, module.p)
        )
        monkeypatch.setattr(torch.nn.functional, "dropout", self._on_probabilities)

    def _begin(self, model, args, kwargs):
        assert self._asked in (0, self.a_pass), "not every dropout of the pass before was met"
        self._step, self._asked = self._step + 1, 0
        rows, length = kwargs["input_ids"].shape
        index = np.arange(rows)[:, None] * LONGEST + np.arange(length)
        self._state = Dropout(dropout_key(0, self._step), jnp.asarray(index, jnp.uint32))

    @property
    def a_pass(self):
        return 1 + SITES_PER_LAYER * self._layers + 1

    def _site(self):
        number, self._asked = self._asked, self._asked + 1
        return CLASSIFIER_SITE if number == self.a_pass - 1 else EMBEDDINGS_SITE + number

    def _on_features(self, x, rate):
        state = self._state
        if x.ndim == 2:  # pooled: the first tokens'
            state = state._replace(token_index=state.token_index[:, 0])
        return x * to_torch(dropout(jnp.ones(x.shape), rate, self._site(), state))

    def _on_probabilities(self, x, p, training):
        assert training
        tokens = attention_token_bits(p, self._site(), self._state)
        return x * to_torch(masked(jnp.ones(x.shape), attention_bits(x.shape[1], tokens), p))


def to_torch(mask):
    return torch.from_numpy(np.array(mask))


def test_with_dropout_too_the_loss_curve_follows_torch_given_the_same_masks(tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPE, **RATES))
    theirs.set_attn_implementation("eager")
    masks = Masks(monkeypatch, theirs)
    assert_follows(tmp_path, theirs, EQUAL, ALIKE, FEWER)
    assert masks._asked == masks.a_pass
