"""Layers one after the other: each compiled by itself, or those that are alike once, as a loop."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxbert.models.compute import Compute
from jaxbert.models.dropout import Dropout
from jaxbert.models.encoder import EMBEDDINGS_SITE, SITES_PER_LAYER, EncoderLayer
from jaxbert.models.visibility import Visibility


class Repetition(NamedTuple):
    """What repeats in a sequence: from `first` on, `period` items, `times` in all; 0 for nothing.

    Example:
      >>> repetition("abcbcbcd")
      Repetition(first=1, period=2, times=3)
      >>> repetition("abc")
      Repetition(first=0, period=1, times=0)
    """

    first: int
    period: int
    times: int

    @property
    def end(self) -> int:
        """Where it is over."""
        return self.first + self.period * self.times


def repetition(items: Sequence[Hashable]) -> Repetition:
    """The repetition that covers most of the items; of several, that of the shortest period."""
    best = Repetition(0, 1, 0)
    for first in range(len(items)):
        for period in range(1, (len(items) - first) // 2 + 1):
            times = 1
            while items[first : first + period] == items[first + times * period :][:period]:
                times += 1
            covered = (times * period if times > 1 else 0, -period)
            if covered > (best.period * best.times, -best.period):
                best = Repetition(first, period, times)
    return best


def run_layers(
    layers: Sequence[EncoderLayer],
    order: Sequence[int],
    x: Float[Array, "B L D"],
    visibility: Visibility,
    relative: Array | None,
    state: Dropout | None,
    columns: Int[Array, "B Q"] | None,
    compute: Compute,
) -> tuple[Array, ...]:
    """The input [B, L, D] and each layer's output, in order.

    Where only the tokens in `columns` of the last layer are wanted, it computes no others (but
    their keys and values), and its output is [B, Q, D].

    Args:
      order: which of `layers` is run at each depth; one may be run several times.
      relative: see `Embeddings.relative`.
      compute: `gradient_checkpointing`: keep only each layer's input for the backward pass.
        `scan_layers`: layers that are alike are a loop.
    """

    def layer(depth: Any, module: EncoderLayer, x: Array, columns: Array | None = None) -> Array:
        # A layer that is run again drops something else.
        first_site = EMBEDDINGS_SITE + 1 + SITES_PER_LAYER * depth
        own = None if state is None else state.from_site(first_site)
        graphdef, leaves = nnx.split(module)
        inputs = (x, visibility, relative, own, columns)
        return _run_layer(graphdef, leaves, inputs, again=compute.gradient_checkpointing)

    chosen = [layers[i] for i in order]
    alike = chosen if columns is None else chosen[:-1]
    looped = repetition(_kinds(alike) if compute.scan_layers else [])
    hidden_states = [x]
    while len(hidden_states) <= len(chosen):
        depth = len(hidden_states) - 1
        if looped.times and depth == looped.first:
            hidden_states += _loop(layer, chosen[depth : looped.end], looped, hidden_states[-1])
            continue
        wanted = columns if depth == len(chosen) - 1 else None
        with jax.named_scope(f"layer_{depth}"):
            hidden_states.append(layer(depth, chosen[depth], hidden_states[-1], wanted))
    return tuple(hidden_states)


@functools.partial(jax.jit, static_argnames=("graphdef", "again"), inline=True)
def _run_layer(graphdef: Any, leaves: Any, inputs: tuple[Any, ...], *, again: bool) -> Array:
    """A layer's output; traced once for all that are alike, and compiled as if each had been.

    Args:
      inputs: of `EncoderLayer.__call__`.
      again: compute it a second time for the backward pass, and keep only its inputs.
    """
    run = nnx.remat(EncoderLayer.__call__) if again else EncoderLayer.__call__
    return run(nnx.merge(graphdef, leaves), *inputs)


def _kinds(layers: Sequence[EncoderLayer]) -> list[int]:
    """A number for each layer, the same for layers that differ in their parameters alone."""
    seen: list[Any] = []
    kinds = []
    for layer in layers:
        graphdef = nnx.split(layer)[0]
        if graphdef not in seen:
            seen.append(graphdef)
        kinds.append(seen.index(graphdef))
    return kinds


def _loop(layer: Any, layers: Sequence[EncoderLayer], where: Repetition, x: Array) -> list[Array]:
    """The output of each of the layers, of which `period` make a round of the loop."""
    period = where.period
    depths = where.first + period * jnp.arange(where.times)
    split = [nnx.split(module) for module in layers]
    graphdefs = [graphdef for graphdef, _ in split[:period]]
    # One layer that is run again and again is no array of layers.
    shared = all(module is layers[0] for module in layers)
    states = [
        split[j][1] if shared else _stacked([state for _, state in split[j::period]])
        for j in range(period)
    ]

    def body(x: Array, at: tuple[Array, Any]) -> tuple[Array, list[Array]]:
        depth, own = at
        outputs = []
        for j, graphdef in enumerate(graphdefs):
            module = nnx.merge(graphdef, states[j] if shared else own[j])
            x = layer(depth + j, module, x)
            outputs.append(x)
        return x, outputs

    with jax.named_scope(f"layers_{where.first}_to_{where.end - 1}"):
        _, outputs = jax.lax.scan(body, x, (depths, None if shared else states))
    return [output[i] for i in range(where.times) for output in outputs]


def _stacked(states: Sequence[Any]) -> Any:
    """Like parameters of several layers as one array each, [layers, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
