"""Measurements of jaxbert against PyTorch; their results are in `results`, a line a run."""
