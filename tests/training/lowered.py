"""What a function is for a GPU, without one; whether it compiles is seen where a plan is made."""

import jax


def for_cuda(function, *args):
    """Its text, lowered for NVIDIA's."""
    device = jax.sharding.AbstractDevice("NVIDIA H100", None, "gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("rows",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*args)
        return traced.lower(lowering_platforms=("cuda",)).as_text()
