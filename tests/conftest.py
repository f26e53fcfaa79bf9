"""Strict arithmetic, shapes checked against the signatures, eight CPU devices and no network.

All of it set before jax, or anything of ours, is imported.
"""

import logging
import os
from importlib.metadata import version

# Programs as small as these compile in two thirds of the time with loops that are emitted the older
# way (large ones take longer). JAX 0.12 has no such flag: there they compile as they do for users.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        *["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10."),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest
from jaxtyping import install_import_hook

# int32 + float32 and [3] + [2, 3] are mistakes until somebody says that they are meant.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# What says Float[Array, "B L D"] is given that, and the same B everywhere in a call.
ARRAYS = (
    "models.attention models.dropout models.encoder models.heads models.head_modules models.kernels"
    " models.model models.positions models.primitives models.residual models.stack"
    " models.visibility tasks.losses training.embedding training.step"
)
install_import_hook([f"jaxbert.{module}" for module in ARRAYS.split()], "beartype.beartype")


@pytest.fixture(autouse=True)
def _the_loggers_level_stays():
    """Commands set the level of the logger "jaxbert"; a test must not find what another has set."""
    logger = logging.getLogger("jaxbert")
    logger.setLevel(logging.NOTSET)  # a fixture of a module may have run one before
    yield
    logger.setLevel(logging.NOTSET)
