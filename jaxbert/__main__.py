"""`python -m jaxbert` is the command `jaxbert`."""

from jaxbert.cli import command

raise SystemExit(command())
