"""What models give: Hugging Face's field names. Axes as in `heads`."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array


class EncoderOutput(NamedTuple):
    """What an encoder computes.

    last_hidden_state: [B, L, D]; with `pooled_only` the first tokens, as the pooler reads them.
    pooler_output: [B, D], [B, S, D] for packed rows, None without a pooler.
    hidden_states: the embeddings' output and each layer's, [B, L, D] each, in order; with
      `pooled_only` none.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden = jnp.zeros((2, 8, 16))
      >>> EncoderOutput(hidden, None, (hidden, hidden)).last_hidden_state.shape
      (2, 8, 16)
    """

    last_hidden_state: Array
    pooler_output: Array | None
    hidden_states: tuple[Array, ...]


class ClassifierOutput(NamedTuple):
    """logits: [B, C] or [B, S, C] of texts, [B, L, C] of tokens, [B, choices] of choices."""

    logits: Array


class QuestionAnsweringOutput(NamedTuple):
    """start_logits, end_logits: [B, L], of the answer's first and last token."""

    start_logits: Array
    end_logits: Array


class MaskedLMOutput(NamedTuple):
    """logits: [B, L, V], of the word at each position."""

    logits: Array


class PreTrainingOutput(NamedTuple):
    """prediction_logits: [B, L, V]. seq_relationship_logits: [B, 2] or [B, S, 2]."""

    prediction_logits: Array
    seq_relationship_logits: Array
