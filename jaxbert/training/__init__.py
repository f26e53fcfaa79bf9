"""Moving the parameters."""

from typing import TYPE_CHECKING

from jaxbert.lazy import lazy

if TYPE_CHECKING:
    from jaxbert.errors import DivergedError
    from jaxbert.training.assemble import Assembly, assemble
    from jaxbert.training.callbacks import Callback
    from jaxbert.training.config import TrainConfig
    from jaxbert.training.embedding import embed, embed_sentences
    from jaxbert.training.engines import make_engine
    from jaxbert.training.predictor import Predictor
    from jaxbert.training.trainer import Trainer

_HOMES = {
    "jaxbert.errors": ("DivergedError",),
    "jaxbert.training.assemble": ("Assembly", "assemble"),
    "jaxbert.training.callbacks": ("Callback",),
    "jaxbert.training.config": ("TrainConfig",),
    "jaxbert.training.embedding": ("embed", "embed_sentences"),
    "jaxbert.training.engines": ("make_engine",),
    "jaxbert.training.predictor": ("Predictor",),
    "jaxbert.training.trainer": ("Trainer",),
}

__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
