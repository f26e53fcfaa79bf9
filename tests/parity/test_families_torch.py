"""Every family and head against `transformers` in PyTorch, on the same weights, in float32."""

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from flax import nnx
from safetensors.numpy import load_file
from tolerance import PROMISE, assert_close, assert_gradients_close, network_terms

import jaxbert
from jaxbert.models import merge_model, split_model
from jaxbert.models.auto import FAMILIES


@pytest.fixture(scope="module", autouse=True)
def _compile_cheaply():
    """Compilation is nearly all the time here; what optimized programs compute is tested with BERT,
    and in training."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def test_every_family_is_here():
    assert {*families.CONFIGS, "bert"} == set(FAMILIES)  # which test_models_torch has


def both(directory, family, case, head):
    reference = families.torch_model(family, case, head)
    reference.save_pretrained(directory)
    return reference, families.our_class(family, head).from_pretrained(directory)


def weights_like(shape, xp):
    """A loss that every output element enters with a weight of its own."""
    return xp.cos(xp.arange(int(np.prod(shape)), dtype=xp.float32)).reshape(shape)


def scalar(outputs, read, xp):
    return sum(
        (value * weights_like(value.shape, xp) * xp.asarray(read[name].astype(np.float32))).sum()
        for name, value in outputs.items()
    )


@pytest.mark.parametrize(("family", "case", "head"), families.head_cases())
def test_outputs_hidden_states_and_gradients(tmp_path, family, case, head):
    reference, ours = both(tmp_path, family, case, head)
    inputs = families.for_head(head, families.inputs_for(family, reference.config))
    wanted = reference(**families.torch_inputs(inputs), output_hidden_states=True)
    want = families.outputs_of(wanted)
    read = {n: families.is_read(value.shape, inputs, family, head) for n, value in want.items()}
    graphdef, params = split_model(ours)

    def run(params):
        model = merge_model(graphdef, params)
        outputs = families.outputs_of(model(**inputs))
        encoder = model if head == "Model" else model.encoder
        hidden = () if head == "ForMultipleChoice" else encoder(**inputs).hidden_states
        return scalar(outputs, read, jnp), (outputs, hidden)

    (_, (outputs, hidden)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    length = inputs["input_ids"].shape[-1]
    terms = network_terms(ours.config, length)
    assert outputs.keys() == want.keys()
    pairs = [(name, outputs[name], want[name], read[name]) for name in want]
    if head != "ForMultipleChoice":
        tokens = families.is_read(hidden[0].shape, inputs, family, "Model")
        layers = enumerate(zip(hidden, wanted.hidden_states, strict=True))
        pairs += [(f"hidden state {i}", ours, theirs, tokens) for i, (ours, theirs) in layers]
    for what, got, theirs, mask in pairs:
        got, theirs = np.asarray(got)[mask], theirs.detach().numpy()[mask]
        assert_close(got, theirs, terms=terms, limit=PROMISE, what=what)

    scalar(want, read, torch).backward()
    for parameter in reference.parameters():
        gradient = parameter.grad
        parameter.data = torch.zeros_like(parameter) if gradient is None else gradient
    reference.save_pretrained(tmp_path / "gradients")
    _, gradients = split_model(type(ours).from_pretrained(tmp_path / "gradients"))
    terms = network_terms(ours.config, length, gradient=True)
    assert_gradients_close(tiny.leaves(grads), tiny.leaves(gradients), terms=terms)


@pytest.mark.parametrize(("family", "case", "head"), families.head_cases())
def test_files_and_back(tmp_path, family, case, head):
    """Untouched, byte for byte; transformers reads what is written, and computes the same."""
    reference, ours = both(tmp_path / "theirs", family, case, head)
    ours.save_pretrained(tmp_path / "ours")
    theirs, written = (load_file(tmp_path / d / "model.safetensors") for d in ("theirs", "ours"))
    assert theirs.keys() == written.keys()
    assert [k for k in theirs if theirs[k].tobytes() != written[k].tobytes()] == []
    again, report = type(reference).from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    inputs = families.for_head(head, families.inputs_for(family, reference.config))
    with torch.no_grad():
        first, second = (
            families.outputs_of(model(**families.torch_inputs(inputs)))
            for model in (reference, again.eval())
        )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert jaxbert.AutoConfig.from_pretrained(tmp_path / "ours") == ours.config


@pytest.mark.parametrize("family", families.CONFIGS)
def test_presets_have_as_many_parameters_as_in_pytorch(family):
    import transformers

    config_class = families.our_class(family, "Config")
    for name in config_class.presets:
        config = config_class.preset(name)
        theirs = getattr(transformers, families.class_name(family, "Config"))(**config.to_hf())
        with torch.device("meta"):
            reference = transformers.AutoModel.from_config(theirs)
        params = jax.eval_shape(
            lambda config=config: split_model(
                families.our_class(family, "Model")(config, rngs=nnx.Rngs(0))
            )[1]
        )
        ours = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
        assert ours == sum(parameter.numel() for parameter in reference.parameters()), name


# ModernBERT sees 64 tokens each way; DeBERTa's buckets grow from 128 to 512, MPNet's to 128.
LONG = {
    "modernbert": dict(num_hidden_layers=2, local_attention=128),
    "deberta-v2": dict(position_buckets=256, max_relative_positions=512, num_hidden_layers=1),
    "mpnet": dict(num_hidden_layers=1),
}


@pytest.mark.parametrize("family", LONG)
def test_texts_beyond_every_window_and_bucket(tmp_path, family):
    shape = dict(hidden_size=16, num_attention_heads=2, max_position_embeddings=700)
    reference = families.torch_model(family, "plain", "Model", **shape, **LONG[family])
    reference.save_pretrained(tmp_path)
    inputs = families.inputs_for(family, reference.config, length=600)
    inputs = {name: value[[0, 3]] for name, value in inputs.items()}  # nothing but text
    with torch.no_grad():
        want = reference(**families.torch_inputs(inputs)).last_hidden_state.numpy()
    graphdef, params = split_model(families.our_class(family, "Model").from_pretrained(tmp_path))
    run = jax.jit(lambda p: merge_model(graphdef, p)(**inputs).last_hidden_state)
    terms = network_terms(merge_model(graphdef, params).config, 600)
    assert_close(run(params), want, terms=terms, limit=PROMISE)
