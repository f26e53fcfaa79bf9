"""Comparing learning-rate strategies: studies, sweeps, the range test, and their report."""
