"""BERT in JAX and Flax: pre-trained weights in, fine-tuned weights out, a learning rate per layer.

Axis letters in docstrings: B batch rows, L length, N heads, H head width, D model width,
F feed-forward width, V vocabulary, C classes, S segments in a packed row.

Names are loaded on first use, so that importing the package costs nothing.
"""

from jaxbert.lazy import lazy
from jaxbert.models.auto import AUTO_CLASSES, FAMILIES

__version__ = "0.1.0"

_HOMES = {
    "jaxbert.models": (
        *(name for family in FAMILIES.values() for name in family.names),
        *AUTO_CLASSES,
        "AutoConfig",
        "EncoderConfig",
        "merge_model",
        "split_model",
    ),
    "jaxbert.data": ("Examples", "load_demo", "load_texts", "load_tokenizer"),
    "jaxbert.errors": ("DivergedError", "InputError"),
    "jaxbert.optim": ("OptimizerConfig", "RatePlan", "STRATEGIES", "make_optimizer"),
    "jaxbert.tasks": ("TASKS", "Task", "TaskOptions", "get_task", "load_examples"),
    "jaxbert.training": (
        "Callback",
        "Predictor",
        "TrainConfig",
        "Trainer",
        "assemble",
        "embed",
        "embed_sentences",
    ),
}

__getattr__, __dir__, _names = lazy(__name__, _HOMES)
__all__ = [*_names, "__version__"]
