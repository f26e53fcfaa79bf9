"""Masked language modelling: words that are hidden in a text, to be told from the rest of it.

Which words are hidden is decided in the step, by the hash that dropout uses: it is a function of
seed, step and token, so that neither the layout of a batch nor a resumed run changes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jaxbert.data import Examples, Form, Tokenized, encode, texts_of
from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.data.sources import columns_of
from jaxbert.data.tables import Table
from jaxbert.errors import InputError
from jaxbert.models import Dropout, EncoderConfig
from jaxbert.models.dropout import token_bits
from jaxbert.models.heads import ForMaskedLM
from jaxbert.models.outputs import MaskedLMOutput
from jaxbert.models.visibility import take_columns
from jaxbert.tasks import losses
from jaxbert.tasks.losses import SumAndCount
from jaxbert.tasks.options import MASKED_LM, TaskOptions
from jaxbert.tasks.task import Batch, Predicted, Task

# {name: [T]} how many tokens back the first of a token's word is; -1 where nothing may be hidden.
WORD_STARTS = "word_starts"
GUESSES = 5
# Beyond the sites of dropout.
_WHICH, _HOW, _RANDOM = 1 << 17, (1 << 17) + 1, (1 << 17) + 2
_MASKED, _REPLACED = 0.8, 0.1  # the rest stays as it is


@dataclasses.dataclass(frozen=True)
class Masks:
    """Hides a share of each text's tokens: 80% become [MASK], 10% another token, 10% stay.

    Of n tokens max(1, round(share n)) are hidden, fewer where a whole word would be too many.
    Reference: Devlin et al. 2019, section 3.1 and `create_pretraining_data.py`, which draws so
    many as well; Hugging Face's collator draws each token by itself.

    Attributes:
      mask_token_id, vocab_size: of the tokenizer.
      share: in (0, 1).
    """

    mask_token_id: int
    vocab_size: int
    share: float

    def __call__(self, batch: Batch, key: Array) -> Batch:
        """The batch with tokens hidden, `columns` [B, K] of them, and what they were as `labels`.

        Without `word_starts` as it is: its texts have their gaps already.
        """
        if WORD_STARTS not in batch:
            return batch
        ids, state = batch["input_ids"], Dropout(key, batch["token_index"])
        hidden = self.hidden(batch, state)
        how, low = token_bits(_HOW, state), _as_bits(_MASKED)
        random = token_bits(_RANDOM, state) % jnp.uint32(self.vocab_size)
        changed = jnp.where(how < low, self.mask_token_id, random.astype(jnp.int32))
        changed = jnp.where(how < _as_bits(_MASKED + _REPLACED), changed, ids)
        columns = self._columns(hidden, batch["segment_starts"].shape[1])
        labels = jnp.where(hidden, ids, IGNORED_LABEL)
        return {
            **batch,
            "input_ids": jnp.where(hidden, changed, ids),
            "columns": columns,
            "labels": take_columns(labels, columns),
        }

    def hidden(self, batch: Batch, state: Dropout) -> Bool[Array, "B L"]:
        """Which tokens: each text's words by the order of their bits, until there are enough."""
        back, segments = batch[WORD_STARTS], batch["segment_ids"]
        offered = back >= 0
        word = state.token_index - jnp.maximum(back, 0).astype(jnp.uint32)
        order = token_bits(_WHICH, state._replace(token_index=word))
        with_it = (segments[:, :, None] == segments[:, None, :]) & offered[:, None, :]
        total = with_it.sum(axis=-1)
        before = (with_it & (order[:, None, :] <= order[:, :, None])).sum(axis=-1)
        wanted = jnp.maximum(1.0, jnp.round(self.share * total.astype(jnp.float32)))
        return offered & (before.astype(jnp.float32) <= wanted)

    def _columns(self, hidden: Bool[Array, "B L"], segments: int) -> Int[Array, "B K"]:
        """Where the hidden tokens are, and then others: so many that all rows have room.

        round(share n) and 1 are both at most share n + 1.
        """
        length = hidden.shape[1]
        room = min(length, math.ceil(self.share * length) + segments)
        return jnp.argsort(~hidden, axis=1, stable=True)[:, :room]


def _as_bits(share: float) -> UInt32[Array, ""]:
    return jnp.uint32(round(share * 2**32))


def _read(
    table: Table,
    columns: Mapping[str, str | None],
    *,
    labelled: bool = True,
    label_names: Sequence[str] | None = None,
) -> Examples:
    """Texts; to learn from them, those that are empty are left out."""
    del label_names
    examples = texts_of(columns_of(table.columns, table.name, columns), table.name)
    if not labelled:
        return examples
    there = np.array([i for i, text in enumerate(examples.texts) if text.strip()], np.int64)
    if not len(there):
        raise InputError(f"{table.name} holds no text to learn from")
    empty = len(examples) - len(there)
    what = {0: "", 1: ", 1 left out for it is empty"}
    reason = f"{len(there)} texts{what.get(empty, f', {empty} left out for they are empty')}"
    return dataclasses.replace(examples.take(there), task=MASKED_LM, reason=reason)


def _encode(
    examples: Examples,
    tokenizer: Any,
    max_length: int,
    cache_dir: str | Path | None = None,
    *,
    options: TaskOptions,
) -> Tokenized:
    """Long texts in windows, so that nothing is lost; of texts to predict for, cut."""
    learns = examples.task == MASKED_LM
    form = Form(stride=0 if learns else None, described=options.whole_words and learns)
    found = encode(
        examples.texts, form, tokenizer, max_length, source=examples.source, cache_dir=cache_dir
    )
    if not learns:
        return found
    if found.words is None:
        back = np.zeros(len(found.input_ids), np.int32)
        special = np.array(tokenizer.all_special_ids, np.int32)
        back[np.isin(found.input_ids, special)] = -1
    else:
        back = _back_to_first(found)
    return dataclasses.replace(found, further={WORD_STARTS: back})


def _back_to_first(tokenized: Tokenized) -> np.ndarray:
    """[T] how many tokens back each word begins, -1 for special tokens."""
    words, places = tokenized.words, np.arange(len(tokenized.input_ids))
    assert words is not None, "they were asked for"
    first = np.ones(len(words), bool)
    first[1:] = words[1:] != words[:-1]
    first[tokenized.offsets[:-1]] = True
    start = np.maximum.accumulate(np.where(first, places, 0))
    return np.where(words < 0, -1, places - start).astype(np.int32)


def _loss(outputs: MaskedLMOutput, batch: Batch, smoothing: float) -> SumAndCount:
    return losses.token_classification(outputs.logits, batch["labels"], smoothing=smoothing)


def _results(outputs: MaskedLMOutput, batch: Batch) -> dict[str, Array]:
    """Of texts with gaps the likeliest tokens of each place; nothing of those to score by."""
    if WORD_STARTS in batch:
        return {}
    values, ids = jax.lax.top_k(jax.nn.log_softmax(outputs.logits), GUESSES)
    return {"ids": ids, "log_probabilities": values}


def _score(config: EncoderConfig, predicted: Predicted) -> dict[str, float]:
    del config
    assert predicted.loss is not None, "texts to score by have a loss"
    return {"perplexity": math.exp(min(predicted.loss, 700.0))}


def _decode(
    config: EncoderConfig, predicted: Predicted, *, tokenizer: Any = None
) -> list[dict[str, Any]]:
    """For each text its gaps, in order, with the likeliest tokens of each."""
    del config
    tokenized, results = predicted.tokenized, predicted.results
    told = []
    for feature, (ids, chances) in enumerate(
        zip(results["ids"], results["log_probabilities"], strict=True)
    ):
        given = tokenized.input_ids[tokenized.of_feature(feature)]
        gaps = np.flatnonzero(given == tokenizer.mask_token_id)
        told.append({"masks": [_guesses(ids[i], chances[i], tokenizer) for i in gaps]})
    return told


def _guesses(ids: np.ndarray, chances: np.ndarray, tokenizer: Any) -> list[dict[str, Any]]:
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    pairs = zip(tokens, np.exp(chances.astype(np.float64)), strict=True)
    return [{"token": token, "probability": float(chance)} for token, chance in pairs]


def _bind(task: Task, tokenizer: Any, *, options: TaskOptions) -> Task:
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"task {MASKED_LM}: the tokenizer has no mask token; take the one of a model that was "
            "pre-trained by masking"
        )
    masks = Masks(tokenizer.mask_token_id, len(tokenizer), options.mask_probability)
    return dataclasses.replace(task, prepare=masks, decode=partial(_decode, tokenizer=tokenizer))


def masked_lm(options: TaskOptions) -> Task:
    """Continued pre-training: which word stands where one is hidden."""
    return Task(
        name=MASKED_LM,
        head=ForMaskedLM,
        columns={"text_column": "text"},
        read=_read,
        encode=partial(_encode, options=options),
        target=lambda examples: {},
        configure=lambda config, examples: config,
        loss=_loss,
        results=_results,
        score=_score,
        decode=_decode,
        metrics={"perplexity": False},
        labelled=False,
        label_layout="token",
        bind=partial(_bind, options=options),
    )
