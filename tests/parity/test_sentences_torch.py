"""Vectors beside those of sentence-transformers, from directories that it writes."""

import numpy as np
import pytest
import sentence_transformers as st
import tiny
import torch
import transformers
from sentence_transformers.base import modules as base_modules
from sentence_transformers.sentence_transformer import modules as sentence_modules

from jaxbert import embed_sentences

TEXTS = [*tiny.TEXTS, "a " * 40]
FORMS = {
    "mean, normalized": ("mean", True, False),
    "cls and max": (("cls", "max"), False, False),
    "weighted": ("weightedmean", True, True),
    "last, and a product": (("lasttoken", "mean_sqrt_len_tokens"), True, True),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_vectors(tmp_path, name):
    torch.manual_seed(0)
    pooling, normalizes, dense = FORMS[name]
    source = tmp_path / "source"
    transformers.BertModel(transformers.BertConfig(**tiny.SHAPE)).save_pretrained(source)
    words = {word: i for i, word in enumerate(tiny.WORDS)}
    transformers.BertTokenizer(vocab=words).save_pretrained(source)
    modules = [base_modules.Transformer(str(source), max_seq_length=12)]
    modules.append(sentence_modules.Pooling(16, pooling_mode=pooling))
    if dense:
        modules.append(base_modules.Dense(16 * (1 if isinstance(pooling, str) else 2), 5))
    if normalizes:
        modules.append(base_modules.Normalize())
    theirs = st.SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "a film "}, default_prompt_name="query"
    )
    theirs.save_pretrained(str(tmp_path / "saved"))
    for prompt in ("query", None):
        wanted = theirs.encode(TEXTS, prompt_name=prompt)
        found = embed_sentences(tmp_path / "saved", TEXTS, prompt_name=prompt)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
