"""The same functions for one kind of hardware."""
