"""`python -m jaxbert` is the command `jaxbert`."""

from jaxbert.cli import main

raise SystemExit(main())
