"""The tokenizer of `small_fixtures`, for every test here that wants one."""

from small_fixtures import tokenizer  # noqa: F401 (pytest finds it by name)
