"""A model as a program: the same outputs, by JAX alone, for any number of rows."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
from flax import nnx

from jaxbert.cli import main
from jaxbert.models import BertConfig, BertForMultipleChoice, ModernBertConfig, ModernBertModel
from jaxbert.training.export import export_model, load_program

ALONE = """
import json, sys
from pathlib import Path
import numpy as np, jax, jax.export
from safetensors.numpy import load_file
assert not [name for name in sys.modules if name.startswith(("jaxbert", "flax"))]
there = Path(sys.argv[1])
program = jax.export.deserialize(bytearray((there / "model.stablehlo").read_bytes()))
rows = {name: np.array(values, np.int32) for name, values in json.loads(sys.argv[2]).items()}
out = program.call(load_file(there / "weights.safetensors"), rows)
print(json.dumps({name: np.asarray(values).tolist() for name, values in out.items()}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("exported")
    tiny.model(3).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    words = ["export", "--model", str(place / "model"), "--output", str(place / "out")]
    assert main([*words, "--max-length", "8"]) == 0
    return place


def test_the_program_runs_without_this_package(exported):
    rows = {
        "input_ids": [[2, 5, 9, 3, 0, 0, 0, 0], [2, 7, 3, 0, 0, 0, 0, 0], [2, 9, 9, 9, 9, 9, 9, 3]],
        "attention_mask": [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1] * 8],
        "token_type_ids": [[0] * 8] * 3,
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(exported / "out"), json.dumps(rows)],
        capture_output=True, text=True, check=True, cwd=exported,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = tiny.model(3)(**{name: np.array(values) for name, values in rows.items()}).logits
    np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=1e-5)


def test_what_is_said_of_it(exported, capsys):
    about = json.loads((exported / "out" / "export.json").read_text())
    assert about["inputs"]["input_ids"] == ["b", "8"]
    assert about["outputs"] == {"logits": ["b", "3"]}
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert {"config.json", "tokenizer.json"} <= {p.name for p in (exported / "out").iterdir()}
    words = ["export", "--model", str(exported / "model"), "--output", str(exported / "out")]
    assert main(words) == 2
    assert "holds something; name another directory" in capsys.readouterr().err
    words[-1] += "2"
    assert main([*words, "--max-length", "17"]) == 2
    assert "max_length=17 is more than the model's 16 positions" in capsys.readouterr().err
    assert not (exported / "out2").exists()


def test_choices_and_windows(tmp_path):
    """Two axes left open; a network whose layers see their neighbours alone."""
    choice = BertForMultipleChoice(BertConfig(**tiny.SHAPE), rngs=nnx.Rngs(0))
    assert export_model(choice, tmp_path / "choice", max_length=8) < 1e-5
    ids = np.full((3, 4, 8), 7, np.int32)
    rows = {"input_ids": ids, "attention_mask": ids // 7, "token_type_ids": 0 * ids}
    assert load_program(tmp_path / "choice")(rows)["logits"].shape == (3, 4)
    config = ModernBertConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, local_attention=4, pad_token_id=0,
        layer_types=("full_attention", "sliding_attention"),
    )  # fmt: skip
    windowed = ModernBertModel(config, rngs=nnx.Rngs(0))
    assert export_model(windowed, tmp_path / "windowed", max_length=64) < 1e-5
