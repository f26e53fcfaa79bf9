"""Fixtures of `small_fixtures`, for every test here."""

from small_fixtures import _compile_cheaply, tokenized, tokenizer  # noqa: F401 (pytest finds them by name)
