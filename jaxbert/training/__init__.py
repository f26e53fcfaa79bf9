"""Moving the parameters."""

from jaxbert.training.config import TrainConfig
from jaxbert.training.trainer import DivergedError, Trainer

__all__ = ["DivergedError", "TrainConfig", "Trainer"]
