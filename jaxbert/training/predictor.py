"""`Predictor`: evaluates a model on labelled examples, and predicts for texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxbert.data import (
    Batches,
    Examples,
    Prefetch,
    Shape,
    Tokenized,
    restore_order,
    split_tokens,
)
from jaxbert.errors import InputError
from jaxbert.models import EncoderConfig, merge_model, split_model
from jaxbert.models.model import Model
from jaxbert.tasks import Task, choose_task
from jaxbert.tasks.task import Predicted, Results
from jaxbert.training.assemble import (
    ProgramCache,
    check_max_length,
    check_token_ids,
    kept_programs,
    tell_what_is_cut,
)
from jaxbert.training.engines import Compiled, Engine, make_engine
from jaxbert.training.step import Params, make_eval_step


class Predictor:
    """A model at work.

    Args:
      model: a model with a head, such as `AutoModelForSequenceClassification` gives.
      tokenizer: from `load_tokenizer`.
      task: the task or its name; None = what the model's configuration says.
      batch_size: examples in a batch.
      max_length: tokens of an example; longer texts are cut.
      layout: how examples share rows, see `data.Batches`; changes speed and nothing else.
      engine: where it runs; None = the first device.
      cache_dir: where token ids are kept between runs.
      shapes, row_multiple: of batches that are compiled for already, see `data.Batches`.
      programs: where compiled steps are kept; None = for itself.

    Raises:
      InputError: settings that do not fit the model.

    Example:
      >>> from flax import nnx
      >>> from transformers import BertTokenizer
      >>> from jaxbert import BertConfig, BertForSequenceClassification
      >>> config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
      ...                     num_attention_heads=2, intermediate_size=24)
      >>> model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
      >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] a good dull film".split()
      >>> tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
      >>> predictor = Predictor(model, tokenizer, max_length=8)
      >>> predictor.logits(["a good film", "dull"]).shape
      (2, 2)
      >>> sorted(predictor.predict(["dull"])[0])
      ['label', 'probabilities']
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        *,
        task: Task | str | None = None,
        batch_size: int = 32,
        max_length: int = 128,
        layout: str = "packed",
        engine: Engine | None = None,
        cache_dir: str | Path | None = None,
        shapes: Sequence[Shape] = (),
        row_multiple: int | None = None,
        programs: ProgramCache | None = None,
    ) -> None:
        self.task = choose_task(task, model).bound(tokenizer)
        check_max_length(model.config, max_length)
        self.tokenizer, self.config = tokenizer, model.config
        self.engine = engine or make_engine()
        self.batch_size, self.max_length, self.layout = batch_size, max_length, layout
        self.shapes, self._row_multiple = shapes, row_multiple or self.engine.parts
        self._cache_dir = cache_dir
        self._graphdef, self.params = split_model(model)
        step = make_eval_step(self._graphdef, self.task, shard=self.engine.shard)
        kept = kept_programs(programs, self.engine, "evaluation", self.task.key, self._graphdef)
        self.step = Compiled(step, self.engine, programs=kept)
        self._unprepared: list[Batches] = []

    @property
    def model(self) -> Model:
        """The model with the present parameters."""
        return self.model_with(self.params)

    def model_with(self, params: Params) -> Model:
        """The model with these parameters."""
        model = merge_model(self._graphdef, params)
        model.config = self.config  # which thresholds may have joined
        return model

    def evaluate(self, examples: Examples) -> dict[str, float]:
        """Loss and every metric of the task on labelled examples."""
        return self.scorer(examples)(self.params)

    def scorer(self, examples: Examples) -> Callable[[Params], dict[str, float]]:
        """What `evaluate` does, for parameters that are given, again and again.

        Checks the labels at once; `prepare` begins to compile.
        """
        examine = self.examiner(examples)
        return lambda params: examine(params)[1]

    def examiner(
        self, examples: Examples
    ) -> Callable[[Params], tuple[Predicted, dict[str, float]]]:
        """As `scorer`: what the model makes of the examples, and its scores."""
        run = self._runner(examples)

        def examine(params: Params) -> tuple[Predicted, dict[str, float]]:
            predicted = run(params)
            assert predicted.loss is not None, "there are labels"
            return predicted, {"loss": predicted.loss, **self.task.score(self.config, predicted)}

        return examine

    def prepare(self) -> None:
        """Has the programs for the examples of all scorers so far compiled on another thread."""
        params = self.engine.put_state(self.params)
        while self._unprepared:
            for batch in self._unprepared.pop(0).examples_of_shapes():
                self.step.prepare(params, self.engine.put_batch(batch))

    def _runner(self, examples: Examples) -> Callable[[Params], Predicted]:
        """parameters -> what they make of labelled examples."""
        self.task.check_labels(self.config, examples)
        tokenized = self.encode(examples)
        batches = self._batches(tokenized, shuffle="once")
        self._unprepared.append(batches)
        return lambda params: Predicted(examples, tokenized, *self.run(params, batches))

    def calibrated(self, examples: Examples) -> EncoderConfig:
        """The model's configuration, with the thresholds that suit these labelled examples."""
        return self.calibrator(examples)(self.params)

    def calibrator(self, examples: Examples) -> Callable[[Params], EncoderConfig]:
        """What `calibrated` does, for parameters that are given, again and again."""
        calibrate = self.task.calibrate
        if calibrate is None:
            return lambda params: self.config
        run = self._runner(examples)
        return lambda params: calibrate(self.config, run(params))

    def predict(self, texts: Sequence[str] | Examples) -> list[dict[str, Any]]:
        """For each text what the task makes of it: {"label", "probabilities"}, {"score"}, ..."""
        return self.task.decode(self.config, self._predicted(texts))

    def logits(self, texts: Sequence[str] | Examples) -> Any:
        """[F, C] float32, of the texts in their order, or of all windows of long ones.

        Raises:
          InputError: the task keeps none.
        """
        results = self.results(texts)
        if "logits" not in results:
            raise InputError(
                f"task {self.task.name} keeps no logits but {', '.join(results)}: see results()"
            )
        return results["logits"]

    def results(self, texts: Sequence[str] | Examples) -> Results:
        """{name: values}: what the task keeps of the model's outputs, in the order of the texts."""
        return self._predicted(texts).results

    def _predicted(self, texts: Sequence[str] | Examples) -> Predicted:
        examples = as_examples(texts)
        tokenized = self.encode(examples)
        batches = self._batches(tokenized, shuffle="once")
        return Predicted(examples, tokenized, *self.run(self.params, batches))

    def encode(self, examples: Examples) -> Tokenized:
        """Token ids of the examples; tells how many were cut.

        Raises:
          InputError: there is a token that the model has no row for.
        """
        encoded = self.task.encode(examples, self.tokenizer, self.max_length, self._cache_dir)
        check_token_ids(self.config, encoded, examples.source, self.tokenizer)
        tell_what_is_cut(encoded, examples.source, self.max_length)
        return encoded

    def batches(
        self, examples: Examples, *, shuffle: bool = False, seed: int = 0, epochs: int = 1
    ) -> Batches:
        """The batches of the examples, in their order or, with `shuffle`, in one by the seed."""
        return self._batches(self.encode(examples), shuffle=shuffle, seed=seed, epochs=epochs)

    def _batches(
        self,
        tokenized: Tokenized,
        *,
        shuffle: bool | Literal["once"] = False,
        seed: int = 0,
        epochs: int = 1,
    ) -> Batches:
        return Batches(
            tokenized,
            self.batch_size,
            max_length=self.max_length,
            layout=self.layout,
            shuffle=shuffle,
            seed=seed,
            part=self.engine.part,
            row_multiple=self._row_multiple,
            shapes=self.shapes,
            epochs=epochs,
        )

    def run(self, params: Params, batches: Batches) -> tuple[Results, float | None]:
        """(the results, and with labels the mean loss) of every batch, in the examples' order."""
        return run_batches(
            self.step, self.engine.put_state(params), batches, self.task.result_layout
        )


def run_batches(
    step: Compiled, params: Params, batches: Batches, layout: str = "example"
) -> tuple[Results, float | None]:
    """Every batch of a data set through a step that gives {"results", "loss_sum", "count"}.

    Args:
      layout: "example": results are [B, S, ...]; "token": [B, L, ...].

    Returns:
      ({name: values in the data set's order}, the mean loss or None); values are [F, ...] of
      features, or of tokens a list of F arrays [length, ...].
    """
    seen, loss_sum, count = [], 0.0, None
    for batch, out in _pipelined(step, params, batches):
        seen.append((batch, {name: np.asarray(rows) for name, rows in out["results"].items()}))
        if "loss_sum" in out:
            loss_sum += float(out["loss_sum"])
            count = (count or 0.0) + float(out["count"])
    collect = _of_tokens if layout == "token" else _of_features
    results = {name: collect(seen, name, batches.features) for name in seen[0][1]}
    if count is None:
        return results, None
    return results, loss_sum / count if count else 0.0  # nothing counts: as in training


def _of_features(seen: list[tuple[Any, Any]], name: str, features: int) -> np.ndarray:
    ids = [batch["example_ids"] for batch, _ in seen]
    return restore_order(ids, [results[name] for _, results in seen], features)


def _of_tokens(seen: list[tuple[Any, Any]], name: str, features: int) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for batch, results in seen:
        found |= split_tokens(batch, results[name])
    return [found[i] for i in range(features)]


def _pipelined(step: Compiled, params: Params, batches: Batches) -> Iterator[tuple[Any, Any]]:
    """(batch, result) pairs, one step behind: the device works while the host reads a result."""
    waiting = None
    for batch in Prefetch(batches.epoch(0)):
        result = (batch, step(params, step.engine.put_batch(batch)))
        if waiting is not None:
            yield waiting
        waiting = result
    if waiting is not None:
        yield waiting


def as_examples(texts: Sequence[str] | Examples) -> Examples:
    """Texts as examples without labels.

    Raises:
      InputError: a single text, for it is a sequence of letters; no texts; what is no text.
    """
    if isinstance(texts, Examples):
        return texts.unlabelled()
    if isinstance(texts, str):
        raise InputError(f"texts={texts[:40]!r} is one text; want a list of texts, as [text]")
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise InputError(f"texts: got {type(texts).__name__}, want a list of texts")
    found = tuple(texts)
    if not found:
        raise InputError("there are no texts: want one at least")
    for number, text in enumerate(found, 1):
        if not isinstance(text, str):
            raise InputError(
                f"text {number} (counted from 1) is a {type(text).__name__}: want a str; for pairs "
                "give Examples, as load_texts makes"
            )
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(
                f"text {number} (counted from 1) has half a surrogate pair, which is no text"
            )
    return Examples(found)
