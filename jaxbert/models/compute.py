"""How a model is computed, `Compute`: frozen, hashable, checked.

Imports no jax, so that a command line can hold it before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from jaxbert.settings import check_choices, check_kinds, setting

if TYPE_CHECKING:
    import numpy as np

DTYPES = ("float32", "bfloat16", "float16")


_hardware = functools.partial(setting, group="hardware")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a model is computed, apart from what it computes.

    Products accumulate in float32 always, and softmax, LayerNorm and losses are float32 always.
    Training keeps the parameters in float32 beside `param_dtype`, for an update is smaller than
    what bfloat16 can tell apart. `platform` is "cpu", "gpu" or "tpu", for which the program is
    written where that matters; None = JAX's default one, asked once, when a model is made.

    Example:
      >>> Compute(dtype="bfloat16", platform="gpu").activation_dtype
      dtype(bfloat16)
      >>> Compute(dtype="bfloat16", platform="cpu").activation_dtype
      dtype('float32')
    """

    dtype: str = _hardware("of matrix products", default="float32", choices=DTYPES)
    param_dtype: str = _hardware("of a model's parameters", default="float32", choices=DTYPES)
    gradient_checkpointing: bool = _hardware(
        "compute layers twice, keep less: less memory, a third more time", default=False
    )
    scan_layers: bool = _hardware(
        "layers that are alike are a loop: sooner compiled for accelerators, slower to run",
        default=False,
    )
    platform: str | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)

    def resolved(self) -> Compute:
        """The same for a platform that is named."""
        if self.platform is not None:
            return self
        import jax

        return dataclasses.replace(self, platform=jax.default_backend())

    @property
    def on_cpu(self) -> bool:
        """Whether the program is written for a CPU."""
        return self.platform == "cpu"

    @property
    def operand_dtype(self) -> np.dtype:
        """In which matrix products read their operands."""
        import jax.numpy as jnp

        return jnp.dtype(self.dtype)

    @property
    def activation_dtype(self) -> np.dtype:
        """In which activations live between products.

        Accelerators keep them in `dtype`. CPUs keep float32: there a product that writes float32
        is 2 to 3 times as fast as one that rounds its result to bfloat16.
        """
        import jax.numpy as jnp

        return jnp.dtype(jnp.float32) if self.on_cpu else self.operand_dtype
