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
    last = config.num_hidden_layers - 1

    def layer(index: int) -> int:
        """Of the last layer the tokens that are read are computed, from all keys and values."""
        few = index == last and config.reads_first_token
        asking = read if few else tokens
        window = config.window(index)
        seen = length if window is None or few else min(length, 3 * window)
        projections = 2 * asking * width * width + 2 * tokens * width * width
        scores_and_mixing = 2 * asking * seen * width
        distances = config.distance_products * (
            tokens * (2 * length - 1) * width + config.distance_rows * width * width
        )
        feed_forward = (3 if config.feed_forward == "gated" else 2) * asking * width * wide
        return 2 * (projections + scores_and_mixing + distances + feed_forward)

    embedding = 2 * tokens * config.embedding_width * width if config.projects_embeddings else 0
    # A pooler, or the first product of a head that has two.
    pooler_and_classifier = 2 * read * width * (width + config.num_labels)
    return 3 * (embedding + sum(map(layer, range(last + 1))) + pooler_and_classifier)
