"""A tokenizer, its token ids, and cheap compilation: fixtures that several folders have."""

import jax
import pytest
import tiny

from jaxbert.data import load_tokenizer, tokenize


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def tokenized(tokenizer):
    return tokenize(tiny.CLASSES, tokenizer, 16)


@pytest.fixture(scope="package", autouse=True)
def _compile_cheaply():
    """Compilation is nearly all the time here, and these programs run a few steps."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
