"""What the network computes."""

from jaxbert.lazy import lazy
from jaxbert.models.auto import AUTO_CLASSES, FAMILIES

_HOMES = {
    "jaxbert.models.auto": ("AutoConfig", *AUTO_CLASSES),
    "jaxbert.models.config": ("Compute", "EncoderConfig"),
    "jaxbert.models.dropout": ("Dropout", "dropout_key"),
    "jaxbert.models.encoder": ("EncoderOutput",),
    "jaxbert.models.model": ("merge_model", "split_model"),
    "jaxbert.models.visibility": ("Visibility",),
    **{family.module: family.names for family in FAMILIES.values()},
}

__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
