"""One file a family: its configuration's keys, its files' names, its classes."""
