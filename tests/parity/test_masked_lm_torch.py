"""Learning hidden words beside `transformers`: the same loss and gradient on the same gaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from tolerance import assert_close, assert_gradients_close, network_terms

from jaxbert import load_examples
from jaxbert.data import Batches, load_tokenizer
from jaxbert.models import BertConfig, BertForMaskedLM, dropout_key, merge_model, split_model
from jaxbert.tasks import TaskOptions, get_task
from jaxbert.training.step import model_inputs


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_loss_and_gradient(tmp_path, layout):
    torch.manual_seed(0)
    shape = tiny.SHAPE | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**shape)).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.WORDS), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    task = get_task("masked-lm", TaskOptions(mask_probability=0.3)).bound(tokenizer)
    texts = load_examples({"text": list(tiny.TEXTS)}, task="masked-lm")
    encoded = task.encode(texts, tokenizer, 16)
    graphdef, params = split_model(BertForMaskedLM.from_pretrained(tmp_path))

    def mean_loss(params, batch):
        outputs = merge_model(graphdef, params)(**model_inputs(batch))
        total, count = task.loss(outputs, batch, 0.0)
        return total / count

    def prepared(layout):
        (batch,) = Batches(encoded, 13, max_length=16, layout=layout).epoch(0)
        batch = {name: jnp.asarray(values) for name, values in batch.items()}
        return task.prepare(batch, dropout_key(0, 0))

    loss, grads = jax.jit(jax.value_and_grad(mean_loss))(params, prepared(layout))
    rows = {name: np.asarray(values) for name, values in prepared("padded").items()}
    labels = np.full(rows["input_ids"].shape, -100)
    np.put_along_axis(labels, rows["columns"], rows["labels"], axis=1)
    wanted = theirs(
        torch.tensor(rows["input_ids"]),
        attention_mask=torch.tensor((rows["segment_ids"] > 0).astype(np.int64)),
        labels=torch.tensor(labels, dtype=torch.long),
    ).loss
    wanted.backward()
    terms = network_terms(BertConfig(**shape), 16, True)
    assert_close(float(loss), float(wanted.detach()), terms=terms)
    table = theirs.bert.embeddings.word_embeddings.weight.grad.numpy()
    dense = theirs.cls.predictions.transform.dense.weight.grad.numpy().T
    found = tiny.leaves(grads)
    ours = {
        "table": found["encoder/embeddings/word_embeddings/embedding"],
        "dense": found["head/predictions/transform/kernel"],
    }
    assert_gradients_close(ours, {"table": table, "dense": dense}, terms=terms)
