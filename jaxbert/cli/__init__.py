"""The command `jaxbert`: the only place that prints, and that ends the process."""

from jaxbert.cli.main import command, main, make_parser

__all__ = ["command", "main", "make_parser"]
