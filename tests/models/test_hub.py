"""Published models against the numbers that transformers' integration tests publish of them.

Off by default, for it needs the hub and some gigabytes:  python -m pytest -m hub

Sources: `tests/models/<family>/test_modeling_<family>.py` of transformers, first row of each slice.
"""

import numpy as np
import pytest

import jaxbert

pytestmark = pytest.mark.hub

# Token ids of their tests, the first token masked where they mask it.
FIRST_MASKED = [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]
ROBERTA = [0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]
XLM_ROBERTA = [0, 581, 10269, 83, 99942, 136, 60742, 23, 70, 80583, 18276, 2]
# repository: (ids, whether the first is masked, the slice, what it holds)
PUBLISHED = {
    "google-bert/bert-base-uncased": (
        FIRST_MASKED, True, np.s_[0, 1, 1:4], [0.4249, 0.1008, 0.7531],
    ),
    "distilbert/distilbert-base-uncased": (
        FIRST_MASKED, True, np.s_[0, 1, 1:4], [-0.1639, 0.3299, 0.1648],
    ),
    "albert/albert-base-v2": (FIRST_MASKED, True, np.s_[0, 1, 1:4], [-0.6513, 1.5035, -0.2766]),
    "google/electra-small-discriminator": (
        FIRST_MASKED, True, np.s_[0, 1, 1:4], [0.4471, 0.6821, -0.3265],
    ),
    "FacebookAI/roberta-base": (ROBERTA, False, np.s_[0, 0, :3], [-0.0231, 0.0782, 0.0074]),
    "FacebookAI/xlm-roberta-base": (
        XLM_ROBERTA, False, np.s_[0, :4, -1], [-0.0101, 0.1218, -0.0803, 0.0801],
    ),
}  # fmt: skip


@pytest.mark.parametrize("repository", PUBLISHED)
def test_hidden_states(repository):
    ids, masked, place, published = PUBLISHED[repository]
    mask = np.ones((1, len(ids)), np.int32)
    mask[0, 0] = not masked
    model = jaxbert.AutoModel.from_pretrained(repository)
    hidden = model(np.array([ids]), attention_mask=mask).last_hidden_state
    atol = 1e-3 if "xlm" in repository else 1e-4  # as there: XLM-R's numbers are fairseq's
    np.testing.assert_allclose(hidden[place], published, rtol=0, atol=atol)


def test_modernbert_predicts_words():
    repository = "answerdotai/ModernBERT-base"
    inputs = jaxbert.load_tokenizer(repository)("Hello World!", return_tensors="np")
    logits = jaxbert.AutoModelForMaskedLM.from_pretrained(repository)(**inputs).logits
    assert logits.shape == (1, 5, 50368)
    np.testing.assert_allclose(logits[0, 0, :3], [3.8387, -0.2017, 12.2839], rtol=1e-4, atol=1e-4)
