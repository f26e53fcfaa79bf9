"""The command `jaxbert`: the only place that prints, and that ends the process."""

from jaxbert.cli.main import main, make_parser

__all__ = ["main", "make_parser"]
