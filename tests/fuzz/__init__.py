"""Files with parts of them changed, given to whatever reads them: `python -m tests.fuzz --help`."""
