"""A package, so that `python -m tests.fuzz` is this folder's and no other package's."""
