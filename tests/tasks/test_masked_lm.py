"""Words are hidden as BERT's pre-training hides them, whatever the layout, and learned from."""

import collections
import json
import math

import jax
import numpy as np
import pytest
import task_checks
import tiny
from flax import nnx
from hash_by_hand import WORD, key_by_hand, token_by_hand
from tolerance import assert_close, network_terms

from jaxbert import Examples, TrainConfig, Trainer, load_examples
from jaxbert.cli import main
from jaxbert.data import Batches
from jaxbert.data.batching import IGNORED_LABEL
from jaxbert.errors import InputError
from jaxbert.models import BertConfig, BertForMaskedLM, dropout_key
from jaxbert.models.outputs import MaskedLMOutput
from jaxbert.tasks import TaskOptions, get_task
from jaxbert.tasks.masked_lm import WORD_STARTS, Masks
from jaxbert.tasks.task import Predicted

CONFIG = BertConfig(**tiny.SHAPE | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.1})
MASK = tiny.WORDS.index("[MASK]")
SHARE = 0.3
TASK = get_task("masked-lm", TaskOptions(mask_probability=SHARE))
TEXTS = load_examples({"text": list(tiny.TEXTS)}, task="masked-lm")


@pytest.fixture(scope="module")
def task(tokenizer):
    return TASK.bound(tokenizer)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return TASK.encode(TEXTS, tokenizer, 16)


def rows(encoded, layout, **options):
    (batch,) = Batches(encoded, 13, max_length=16, layout=layout, **options).epoch(0)
    return batch


def on_device(batch):
    return {name: jax.numpy.asarray(values) for name, values in batch.items()}


def hidden(batch, masks, step=0):
    """{(token's number): (what the model reads, what it was)} of the hidden tokens."""
    found = masks(on_device(batch), dropout_key(0, step))
    columns, labels = np.asarray(found["columns"]), np.asarray(found["labels"])
    read = np.take_along_axis(np.asarray(found["input_ids"]), columns, 1)
    numbers = np.take_along_axis(batch["token_index"], columns, 1)
    there = labels != IGNORED_LABEL
    return {
        int(n): (int(r), int(w))
        for n, r, w in zip(numbers[there], read[there], labels[there], strict=True)
    }


def test_so_many_of_each_text_whatever_the_layout(task, encoded):
    found = [hidden(rows(encoded, layout), task.prepare) for layout in ("packed", "padded")]
    assert found[0] == found[1]
    per_text = collections.Counter(number // 16 for number in found[0])
    words = encoded.lengths - 2
    assert [per_text[i] for i in range(13)] == [max(1, round(SHARE * n)) for n in words.tolist()]
    for number, (_, was) in found[0].items():
        assert encoded.input_ids[encoded.offsets[number // 16] + number % 16] == was > MASK
    assert hidden(rows(encoded, "packed"), task.prepare, step=1).keys() != found[0].keys()


def test_nothing_else_is_changed(task, encoded):
    batch = on_device(rows(encoded, "packed"))
    found = task.prepare(batch, dropout_key(0, 0))
    changed = np.asarray(found["input_ids"]) != batch["input_ids"]
    numbers = set(np.asarray(batch["token_index"])[changed].tolist())
    assert numbers <= hidden(batch, task.prepare).keys()
    assert {name for name in batch if found[name] is not batch[name]} == {"input_ids"}


def test_eighty_ten_ten():
    size, length = 64, 512
    ids = np.full((size, length), 7, np.int32)
    batch = {
        "input_ids": ids,
        "segment_ids": np.ones_like(ids),
        "token_index": np.arange(ids.size, dtype=np.uint32).reshape(ids.shape),
        "segment_starts": np.zeros((size, 1), np.int32),
        WORD_STARTS: np.zeros_like(ids),
    }
    found = hidden(batch, Masks(mask_token_id=1, vocab_size=1000, share=0.15))
    assert len(found) == size * round(0.15 * length)
    names = {1: "masked", 7: "kept"}
    kinds = collections.Counter(names.get(r, "random") for r, _ in found.values())
    # Binomial: five standard deviations.
    for kind, share in (("masked", 0.8), ("kept", 0.1), ("random", 0.1)):
        deviation = math.sqrt(len(found) * share * (1 - share))
        assert abs(kinds[kind] - share * len(found)) < 5 * deviation, kinds
    random = [r for r, _ in found.values() if r not in (1, 7)]
    assert min(random) >= 0
    assert max(random) < 1000
    assert len(set(random)) > 0.6 * len(random)  # of 1,000 about 490 would be 390 different ones


def test_what_is_hidden_is_what_it_always_was():
    """By hand; of two texts in a row, words of one or two tokens, and special ones at the ends."""
    back = [-1, 0, 0, 1, 0, -1, -1, 0, 1, 0, 0, 0, 0, -1]
    segments = [1] * 6 + [2] * 8
    first, share, vocabulary = 40, 0.4, 900
    ids = np.arange(300, 314, dtype=np.int32)
    masks = Masks(mask_token_id=1, vocab_size=vocabulary, share=share)
    batch = {
        "input_ids": ids[None], "segment_ids": np.array([segments], np.int32),
        "token_index": np.arange(first, first + 14, dtype=np.uint32)[None],
        "segment_starts": np.array([[0, 6]], np.int32), WORD_STARTS: np.array([back], np.int32),
    }  # fmt: skip
    kinds = collections.Counter()
    for step in range(6):
        found, key = masks(on_device(batch), dropout_key(5, step)), key_by_hand(5, step)
        wanted = ids.tolist()
        for segment in (1, 2):
            places = [i for i in range(14) if segments[i] == segment and back[i] >= 0]
            order = {i: token_by_hand(key, 1 << 17, first + i - back[i]) for i in places}
            for i in places:
                if sum(order[j] <= order[i] for j in places) > max(1, round(share * len(places))):
                    continue
                how = token_by_hand(key, (1 << 17) + 1, first + i) / WORD
                random = token_by_hand(key, (1 << 17) + 2, first + i) % vocabulary
                wanted[i] = 1 if how < 0.8 else random if how < 0.9 else wanted[i]
                kinds[int(how * 10) >= 8, int(how * 10) == 8] += 1
        assert found["input_ids"].tolist() == [wanted]
        assert found["columns"].shape == (1, 8)  # .4 of 14 rounded up, and one for each text
    assert len(kinds) == 3  # hidden, another token, and the same


def test_what_the_task_makes_of_outputs(task, tokenizer):
    logits = jax.numpy.asarray(np.random.default_rng(0).normal(size=(1, 3, 9)), np.float32)
    outputs = MaskedLMOutput(logits)
    results = task.results(outputs, {})
    assert results["ids"].shape == results["log_probabilities"].shape == (1, 3, 5)
    assert task.results(outputs, {WORD_STARTS: None}) == {}
    texts = Examples(("a [MASK] film", "[MASK]"))
    encoded = TASK.encode(texts, tokenizer, 16)
    ids = [np.full((n, 2), 7, np.int32) + np.arange(n)[:, None] for n in encoded.lengths]
    chances = [np.log(np.full((n, 2), 0.25, np.float32)) for n in encoded.lengths]
    results = {"ids": ids, "log_probabilities": chances}
    told = task.decode(CONFIG, Predicted(texts, encoded, results))
    names = [[[guess["token"] for guess in gap] for gap in row["masks"]] for row in told]
    assert names == [[[tiny.WORDS[9]] * 2], [[tiny.WORDS[8]] * 2]]
    assert told[0]["masks"][0][0]["probability"] == pytest.approx(0.25)
    scored = task.score(CONFIG, Predicted(texts, encoded, {}, loss=1e6))
    assert scored == {"perplexity": math.exp(700)}  # and no overflow
    assert task.selection_metric(None) == ("perplexity", False)


def test_empty_texts_are_counted():
    assert TEXTS.reason == "13 texts"
    two = load_examples({"text": ["", "film", " "]}, task="masked-lm")
    assert two.reason == "1 texts, 2 left out for they are empty"


def test_whole_words_are_hidden_together(tokenizer, tmp_path):
    pieces = [*tiny.WORDS, "##s", "##ing"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    from jaxbert import load_tokenizer

    tokenizer = load_tokenizer(tmp_path)
    task = get_task("masked-lm", TaskOptions(mask_probability=0.5, whole_words=True))
    texts = load_examples(
        {"text": ["films plots musicings end casts story"] * 13}, task="masked-lm"
    )
    encoded = task.encode(texts, tokenizer, 16)
    # [CLS] film s plot s music ing s end cast s story [SEP]
    assert encoded.further[WORD_STARTS][:13].tolist() == [-1, 0, 1, 0, 1, 0, 1, 2, 0, 0, 1, 0, -1]
    words = [{1, 2}, {3, 4}, {5, 6, 7}, {8}, {9, 10}, {11}]
    chosen = hidden(rows(encoded, "packed"), task.bound(tokenizer).prepare)
    by_text = [{n % 16 for n in chosen if n // 16 == i} for i in range(13)]
    for columns in by_text:
        assert 3 <= len(columns) <= 6  # of 11 tokens 6, and words of up to 3 that would not fit
        assert columns == set().union(*(word for word in words if word & columns))
    assert len({frozenset(columns) for columns in by_text}) > 3


def test_a_long_text_is_read_in_windows_and_a_blank_one_left_out(tokenizer):
    long = " ".join(["film"] * 30)
    texts = load_examples({"text": [long, "  ", "dull"]}, task="masked-lm")
    assert texts.reason == "2 texts, 1 left out for it is empty"
    encoded = TASK.encode(texts, tokenizer, 12)
    assert encoded.lengths.tolist() == [12, 12, 12, 3]
    assert encoded.truncated == 0
    with pytest.raises(InputError, match="dict of columns holds no text to learn from"):
        load_examples({"text": [" "]}, task="masked-lm")


# The step


def test_the_head_reads_the_hidden_tokens_alone(task, encoded):
    batch = on_device(rows(encoded, "packed"))
    model = BertForMaskedLM(CONFIG, rngs=nnx.Rngs(0))
    found = task.prepare(batch, dropout_key(0, 0))
    inputs = {n: found[n] for n in ("input_ids", "token_type_ids", "segment_ids", "segment_starts")}
    some = model(**inputs, columns=found["columns"]).logits
    every = np.asarray(model(**inputs).logits)
    picked = np.take_along_axis(every, np.asarray(found["columns"])[..., None], 1)
    assert_close(some, picked, terms=network_terms(CONFIG, 16, True))
    assert some.shape[1] < every.shape[1]


def test_texts_without_a_word_make_no_loss(tokenizer, task):
    nothing = TASK.encode(
        Examples(("[UNK]",) * 13, task="masked-lm", source="nothing"), tokenizer, 16
    )
    model = BertForMaskedLM(CONFIG, rngs=nnx.Rngs(0))
    loss, count, moved = task_checks.one_step(model, task, nothing, "padded", batch_size=13)
    assert (loss, count) == (0.0, 1.0)
    assert not any(leaf.any() for leaf in moved.values())


# The whole way


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory, tokenizer):
    """An encoder without a head."""
    directory = tmp_path_factory.mktemp("encoder")
    tiny.encoder().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    lines = ["a good film", "", *tiny.TEXTS] * 2
    (directory / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def trained(model_directory, tmp_path_factory):
    output = tmp_path_factory.mktemp("mlm") / "run"
    lines = str(model_directory / "lines.txt")
    main(
        ["finetune", "--model", str(model_directory), "--task", "masked-lm", "--train", lines,
         "--eval", lines, "--output", str(output), "--epochs", "3", "--max-length", "16",
         "--learning-rate", "1e-2", "--strategy", "uniform", "--checkpoint-every", "1"]
    )  # fmt: skip
    return output


def test_the_command_learns_and_tells(trained, capsys, monkeypatch):
    run = tiny.run_json(trained)
    scores = [found["perplexity"] for found in run["evaluations"]]
    assert scores[-1] < scores[0]
    assert run["best"]["metric"] == "perplexity"
    assert math.exp(run["evaluations"][-1]["loss"]) == pytest.approx(scores[-1])
    (trained.parent / "gaps.txt").write_text("a [MASK] film\ngood\n[MASK] [MASK]\n")
    main(["predict", str(trained.parent / "gaps.txt"), "--model", str(trained),
               "--max-length", "16"])  # fmt: skip
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(row["masks"]) for row in told] == [1, 0, 2]
    guesses = [guess["probability"] for guess in told[0]["masks"][0]]
    assert len(guesses) == 5
    assert guesses == sorted(guesses, reverse=True)
    assert 0 < sum(guesses) <= 1 + 1e-6


def test_what_it_learned_is_fine_tuned(trained, tmp_path):
    (tmp_path / "films.csv").write_text("text,label\ngood,1\nbad,0\nfine film,1\ndull,0\n")
    main(
        ["finetune", "--model", str(trained), "--train", str(tmp_path / "films.csv"), "--output",
         str(tmp_path / "run"), "--epochs", "1", "--max-length", "16"]
    )  # fmt: skip
    assert tiny.run_json(tmp_path / "run")["task"] == "text-classification"


def test_a_resumed_run_is_the_uninterrupted_one(tokenizer, tmp_path):
    programs = {}

    def make(output, resume):
        config = TrainConfig(epochs=3, batch_size=4, max_length=16, log_every=1, seed=5,
                             optimizer=tiny.ADAMW, checkpoint_every=1)  # fmt: skip
        return Trainer(
            BertForMaskedLM(CONFIG, rngs=nnx.Rngs(0)), tokenizer, train=TEXTS, config=config,
            task=TASK, output=output, resume=resume, progress=False, programs=programs,
        )  # fmt: skip

    task_checks.assert_resumes(make, tmp_path, at=5)


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.mask_token = None
    with pytest.raises(InputError, match="the tokenizer has no mask token"):
        TASK.bound(bare)


def test_other_options_are_another_run(tokenizer, tmp_path):
    def make(share, **more):
        return Trainer(
            BertForMaskedLM(CONFIG, rngs=nnx.Rngs(0)), tokenizer, train=TEXTS, output=tmp_path,
            task=get_task("masked-lm", TaskOptions(mask_probability=share)), progress=False,
            config=TrainConfig(epochs=1, max_length=16), **more,
        )  # fmt: skip

    make(0.3)
    with pytest.raises(InputError, match="holds a run that differs in mask_probability"):
        make(0.2, resume=True)
    with pytest.raises(InputError, match="stride=3 is for text-classification and text-regression"):
        get_task("masked-lm", TaskOptions(stride=3))
