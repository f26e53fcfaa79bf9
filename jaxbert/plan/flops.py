"""How many FLOPs a training step of the model asks for, counted from its configuration alone."""

from __future__ import annotations

from jaxbert.models import EncoderConfig


def training_flops(config: EncoderConfig, rows: int, length: int, segments: int = 1) -> int:
    """FLOPs of the products of one training step of a sequence classifier, over whole rows.

    A product of [m, k] by [k, n] counts 2 m k n. The backward pass takes two products for each of
    the forward pass (Kaplan et al. 2020, section 2.1, without their approximations). Padding
    counts, for it is computed; tokens of the last layer that nobody reads do not.

    Args:
      rows, length: of the batch, [B, L].
      segments: examples in a row.
    """
    width, wide = config.hidden_size, config.intermediate_size
    tokens, read = rows * length, rows * segments

    def layer(asking: int) -> int:
        """Of which `asking` tokens are computed, from all tokens' keys and values."""
        projections = 2 * asking * width * width + 2 * tokens * width * width
        scores_and_mixing = 2 * asking * length * width
        feed_forward = (3 if config.feed_forward == "gated" else 2) * asking * width * wide
        return 2 * (projections + scores_and_mixing + feed_forward)

    pooler_and_classifier = 2 * read * width * (width + config.num_labels)
    forward = (config.num_hidden_layers - 1) * layer(tokens) + layer(read) + pooler_and_classifier
    return 3 * forward
