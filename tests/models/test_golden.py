"""The models against numbers that PyTorch computed earlier (scripts/make_golden.py)."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file
from tolerance import PROMISE, assert_close, assert_gradients_close, network_terms

import jaxbert.models as models
from jaxbert.models import merge_model, split_model

GOLDEN = Path(__file__).parent.parent / "golden"


def load(path, directory, kind):
    """A Hugging Face directory holding the golden file's `weights` or `gradients`."""
    golden = np.load(path)
    directory.mkdir()
    (directory / "config.json").write_text(str(golden["config"]))
    tensors = {k.removeprefix(f"{kind}/"): golden[k] for k in golden if k.startswith(f"{kind}/")}
    save_file(tensors, directory / "model.safetensors")
    task = json.loads(str(golden["config"]))["architectures"][0]
    return golden, split_model(getattr(models, task).from_pretrained(directory))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.npz")), ids=lambda path: path.stem)
def test_outputs_hidden_states_and_gradients(tmp_path, path):
    golden, (graphdef, params) = load(path, tmp_path / "weights", "weights")
    _, (_, wanted) = load(path, tmp_path / "gradients", "gradients")
    inputs = {k.removeprefix("inputs/"): golden[k] for k in golden if k.startswith("inputs/")}

    def loss(params):
        model = merge_model(graphdef, params)
        output = model(**inputs)
        outputs = tuple(output)
        total = sum((x * jnp.cos(jnp.arange(x.size)).reshape(x.shape)).sum() for x in outputs)
        return total, (outputs, model.encoder(**inputs).hidden_states)

    grads, (outputs, hidden) = jax.jit(jax.grad(loss, has_aux=True))(params)
    config = SimpleNamespace(**json.loads(str(golden["config"])))
    terms = [network_terms(config, inputs["input_ids"].shape[1], back) for back in (False, True)]
    for kind, arrays in (("outputs", outputs), ("hidden", hidden)):
        for i, got in enumerate(arrays):
            name = f"{kind}/{i}"
            assert_close(got, golden[name], terms=terms[0], limit=PROMISE, what=name)
    assert_gradients_close(tiny.leaves(grads), tiny.leaves(wanted), terms=terms[1])


def test_there_are_golden_files():
    assert len(list(GOLDEN.glob("*.npz"))) == 2
