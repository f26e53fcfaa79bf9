"""Text and labels to batches of numpy arrays; knows no jax."""

from jaxbert.data.batching import (
    Batches,
    BatchStats,
    restore_order,
    split_tokens,
)
from jaxbert.data.demo import Demo, cache_directory, load_demo, load_tags_demo
from jaxbert.data.features import Form, Tokenized, encode
from jaxbert.data.packing import Shape
from jaxbert.data.prefetch import Prefetch
from jaxbert.data.sources import Examples, load_texts, read_columns, texts_of
from jaxbert.data.tokenization import (
    load_tokenizer,
    save_tokenizer,
    tokenize,
    vocabulary_size,
)

__all__ = [
    "BatchStats",
    "Batches",
    "Demo",
    "Examples",
    "Form",
    "Prefetch",
    "Shape",
    "Tokenized",
    "cache_directory",
    "encode",
    "load_demo",
    "load_tags_demo",
    "load_texts",
    "load_tokenizer",
    "read_columns",
    "restore_order",
    "save_tokenizer",
    "split_tokens",
    "texts_of",
    "tokenize",
    "vocabulary_size",
]
