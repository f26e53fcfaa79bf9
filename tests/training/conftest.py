"""A tokenizer, and compiled programs that are kept from one test to the next."""

import jax
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache

from jaxbert.data import load_tokenizer, tokenize


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def tokenized(tokenizer):
    return tokenize(tiny.CLASSES, tokenizer, 16)


@pytest.fixture(scope="session", autouse=True)
def _compile_cheaply(tmp_path_factory):
    """Compilation is nearly all the time here: keep what is compiled, and optimize little."""
    names = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
