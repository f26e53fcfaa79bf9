"""The page for those who leave Hugging Face's Flax classes: each line of it runs."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import jaxbert
from jaxbert.models import Dropout, dropout_key

PAGE = Path(__file__).parent.parent / "docs" / "MIGRATION.md"
LINES = re.findall(r"^\| `(.+)` \| `(.+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the lines speak of, and what earlier lines have set."""
    directory = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    texts = ["a good film", "dull"]
    return {
        "jaxbert": jaxbert,
        "nnx": nnx,
        "Dropout": Dropout,
        "dropout_key": dropout_key,
        "d": directory,
        "out": tmp_path_factory.mktemp("out"),
        "config": tiny.model().config,
        "texts": texts,
        "tokenizer": jaxbert.load_tokenizer(directory),
        "token_index": jnp.arange(2 * 5, dtype=jnp.uint32).reshape(2, 5),
    }


def test_the_page_has_its_lines():
    assert len(LINES) > 15
    assert all("Flax" not in ours for _, ours in LINES)


@pytest.mark.parametrize(("theirs", "ours"), LINES, ids=[theirs for theirs, _ in LINES])
def test_every_line_runs(names, theirs, ours):
    del theirs
    exec(ours, names)


def test_the_lines_mean_the_same_model(names):
    """Run after them: what was loaded, split, merged, saved and loaded again computes the same."""
    model, inputs = names["model"], names["inputs"]
    merged = jaxbert.merge_model(names["graphdef"], names["params"])
    again = jaxbert.AutoModelForSequenceClassification.from_pretrained(names["out"])
    for other in (merged, again):
        assert np.array_equal(other(**inputs).logits, model(**inputs).logits)
