"""What the network computes."""

from jaxbert.lazy import lazy
from jaxbert.models.auto import AUTO_CLASSES, FAMILIES

_HOMES = {
    "jaxbert.models.auto": ("AutoConfig", *AUTO_CLASSES),
    "jaxbert.models.compute": ("Compute",),
    "jaxbert.models.config": ("EncoderConfig",),
    "jaxbert.models.dropout": ("Dropout", "dropout_key"),
    "jaxbert.models.outputs": ("EncoderOutput",),
    "jaxbert.models.model": ("merge_model", "split_model"),
    "jaxbert.models.visibility": ("Visibility",),
}
for _family in FAMILIES.values():
    _HOMES[_family.module] = (*_HOMES.get(_family.module, ()), *_family.names)

__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
