"""Names and bytes: checkpoint files to parameter trees and back."""

from jaxbert.weights.pretrained import LoadReport, PretrainedMixin, load_pretrained

__all__ = ["LoadReport", "PretrainedMixin", "load_pretrained"]
