"""BERT in JAX and Flax: pre-trained weights in, fine-tuned weights out, a learning rate per layer.

Axis letters in docstrings: B batch rows, L length, N heads, H head width, D model width,
F feed-forward width, V vocabulary, C classes, S segments in a packed row.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "jaxbert.models": (
        "BertConfig",
        "BertForMaskedLM",
        "BertForMultipleChoice",
        "BertForNextSentencePrediction",
        "BertForPreTraining",
        "BertForQuestionAnswering",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertModel",
        "merge_model",
        "split_model",
    ),
    "jaxbert.data": ("Examples", "load_demo", "load_examples", "load_tokenizer"),
    "jaxbert.optim": ("OptimizerConfig", "STRATEGIES", "make_optimizer"),
    "jaxbert.training": ("TrainConfig", "Trainer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxbert' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
