"""Every model against `transformers` in PyTorch, on the same weights, in float32."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from tolerance import (
    MARGIN,
    PROMISE,
    UNIT,
    assert_at_most,
    assert_close,
    assert_gradients_close,
    network_terms,
)

import jaxbert.models as models
from jaxbert.data import load_demo
from jaxbert.models import BertConfig, merge_model, split_model
from jaxbert.tasks import load_examples

TASKS = [
    "BertModel",
    "BertForSequenceClassification",
    "BertForMaskedLM",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
]
SHAPES = {
    "plain": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "odd widths": dict(
        hidden_size=21, num_hidden_layers=3, num_attention_heads=3, intermediate_size=37,
        vocab_size=101, num_labels=5,
    ),
    "one layer": dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                      type_vocab_size=4),
    "tanh gelu": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                      hidden_act="gelu_new"),
    "large eps": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                      layer_norm_eps=1e-3),
}  # fmt: skip
# (rows, columns, tokens in each row)
PADDINGS = {
    "no padding": (2, 9, (9, 9)),
    "heavy padding": (3, 24, (24, 2, 1)),
    "long input": (1, 64, (64,)),
}
CASES = [(shape, "heavy padding") for shape in SHAPES]
CASES += [("odd widths", padding) for padding in PADDINGS if padding != "heavy padding"]


def random_torch_model(task, shape):
    torch.manual_seed(0)
    # Weights wide enough that attention is far from uniform and gelu from linear.
    fields = dict(initializer_range=0.2, vocab_size=80, intermediate_size=48,
                  max_position_embeddings=64) | SHAPES[shape]  # fmt: skip
    if task == "BertForQuestionAnswering":
        fields.pop("num_labels", None)  # its two outputs are start and end, never labels
    config = transformers.BertConfig(**fields)
    config._attn_implementation = "eager"
    reference = getattr(transformers, task)(config).eval()
    with torch.no_grad():  # zero biases and unit scales would hide a swapped or missing one
        for name, parameter in reference.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return reference


def inputs_for(task, padding, config, seed=0):
    rows, columns, lengths = PADDINGS[padding]
    rng = np.random.default_rng(seed)
    shape = (rows, 3, columns) if task == "BertForMultipleChoice" else (rows, columns)
    mask = (np.arange(columns) < np.array(lengths)[:, None]).astype(np.int32)
    mask = np.broadcast_to(mask[:, None] if len(shape) == 3 else mask, shape)
    return dict(
        input_ids=rng.integers(0, config.vocab_size, shape).astype(np.int32) * mask,
        attention_mask=np.ascontiguousarray(mask),
        token_type_ids=rng.integers(0, config.type_vocab_size, shape).astype(np.int32),
    )


def torch_inputs(inputs):
    return {name: torch.tensor(value).long() for name, value in inputs.items()}


def torch_outputs(output):
    """The tensors that ours returns, in our order."""
    names = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits")
    found = [output[name] for name in names if name in output]
    return found or [output.last_hidden_state, output.pooler_output]


def flax_outputs(output):
    if isinstance(output, models.EncoderOutput):
        return [output.last_hidden_state, output.pooler_output]
    return list(output) if isinstance(output, tuple) else [output]


def both(tmp_path, task, shape):
    reference = random_torch_model(task, shape)
    reference.save_pretrained(tmp_path)
    ours = getattr(models, task).from_pretrained(tmp_path)
    return reference, ours


@pytest.mark.parametrize(("shape", "padding"), CASES)
@pytest.mark.parametrize("task", TASKS)
def test_outputs_and_hidden_states(tmp_path, task, shape, padding):
    reference, ours = both(tmp_path, task, shape)
    inputs = inputs_for(task, padding, reference.config)
    with torch.no_grad():
        wanted = reference(**torch_inputs(inputs), output_hidden_states=True)
    graphdef, params = split_model(ours)

    @jax.jit
    def run(params, inputs):
        model = merge_model(graphdef, params)
        outputs = flax_outputs(model(**inputs))
        if task == "BertForMultipleChoice":
            return outputs, ()
        encoder = model if task == "BertModel" else model.encoder
        return outputs, encoder(**inputs).hidden_states

    outputs, hidden_states = run(params, inputs)
    pairs = list(zip(outputs, torch_outputs(wanted), strict=True))
    if task != "BertForMultipleChoice":
        pairs += zip(hidden_states, wanted.hidden_states, strict=True)
    terms = network_terms(reference.config, inputs["input_ids"].shape[-1])
    for i, (got, want) in enumerate(pairs):
        assert_close(got, want.numpy(), terms=terms, limit=PROMISE, what=f"{task}, array {i}")


def scalar(outputs, xp):
    """A loss that every output element enters with a weight of its own."""
    return sum(
        (output * xp.cos(xp.arange(output.size if xp is jnp else output.numel()))
         .reshape(output.shape)).sum()
        for output in outputs
    )  # fmt: skip


@pytest.mark.parametrize("shape", ["plain", "odd widths"])
@pytest.mark.parametrize("task", TASKS)
def test_gradients(tmp_path, task, shape):
    reference, ours = both(tmp_path, task, shape)
    inputs = inputs_for(task, "heavy padding", reference.config)
    scalar(torch_outputs(reference(**torch_inputs(inputs))), torch).backward()
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:  # the pooler where a head does not read it
            parameter.grad = torch.zeros_like(parameter)
        parameter.data = parameter.grad
        del name
    reference.save_pretrained(tmp_path / "gradients")
    _, wanted = split_model(type(ours).from_pretrained(tmp_path / "gradients"))

    graphdef, params = split_model(ours)
    grads = jax.jit(
        jax.grad(lambda p: scalar(flax_outputs(merge_model(graphdef, p)(**inputs)), jnp))
    )(params)
    terms = network_terms(reference.config, inputs["input_ids"].shape[-1], gradient=True)
    assert_gradients_close(tiny.leaves(grads), tiny.leaves(wanted), terms=terms)


@pytest.fixture(scope="module")
def demo():
    """The demo model by PyTorch, in float64, and ours."""
    directory = load_demo().model
    reference = transformers.BertModel.from_pretrained(directory, attn_implementation="eager")
    return reference.eval().double(), models.BertModel.from_pretrained(directory)


def hidden_states(reference, inputs):
    with torch.no_grad():
        found = reference(**torch_inputs(inputs), output_hidden_states=True).hidden_states
    return [x.double().numpy() for x in found]


def rounded(module, generator):
    """A hook that adds what float32 would have rounded off a module's output, at random."""

    def noise(output):
        return torch.randn(output.shape, generator=generator, dtype=output.dtype)

    def linear(module, args, output):
        # tolerance.py: UNIT * sqrt(n / 6) of the root of the sum of the terms' squares.
        terms = torch.nn.functional.linear(args[0] ** 2, module.weight**2).sqrt()
        return output + UNIT["float32"] * (module.in_features / 6) ** 0.5 * terms * noise(output)

    def layer_norm(module, args, output):
        # A mean, a difference, a root and a product, all of what the bias is added to.
        return output + 2 * UNIT["float32"] * (output - module.bias) * noise(output)

    return linear if isinstance(module, torch.nn.Linear) else layer_norm


def expected_errors(reference, inputs, exact, draws=6):
    """What float32 does to each token [rows, columns] of each hidden state: its typical distance.

    Computed in float64, so on any processor the same: how far roundings carry depends on the
    token, and random ones drive the trained model where it is two or three times 1e-5.
    """
    squares = [0.0] * len(exact)
    generator = torch.Generator().manual_seed(0)
    hooks = [
        module.register_forward_hook(rounded(module, generator))
        for module in reference.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm)
    ]
    for _ in range(draws):
        for i, (got, want) in enumerate(zip(hidden_states(reference, inputs), exact, strict=True)):
            squares[i] = squares[i] + np.square(got - want).sum(-1) / draws
    for hook in hooks:
        hook.remove()
    return [np.sqrt(square) for square in squares]


def errors_beside_pytorch(demo, inputs):
    """(float64's hidden states, our distance from them [rows, columns, width] in each).

    On all tokens together ours is as near as PyTorch's float32. On one token no such bound holds:
    where one direction is amplified, each error is one draw along it, and a quotient of two draws
    can be anything. Their geometric mean over tokens can not: it is the root of the number of
    lanes, 16 at most, where one side sums in lanes and the other in a row.
    """
    reference, ours = demo
    exact = hidden_states(reference, inputs)
    theirs = hidden_states(copy.deepcopy(reference).float(), inputs)
    off = []
    for i, (want, their, got) in enumerate(
        zip(exact, theirs, ours(**inputs).hidden_states, strict=True)
    ):
        off.append(np.abs(np.float64(got) - want))
        sizes = [np.linalg.norm(x, axis=-1) for x in (off[-1], their - want)]
        ratio = np.exp(np.mean(np.log(sizes[0] / sizes[1])))
        assert_at_most(ratio, 16**0.5, f"hidden state {i}, our error over PyTorch's")
    return exact, off


def test_the_demo_model_on_real_sentences(demo):
    files = load_demo()
    texts = load_examples(files.test, text_column="text").texts[:32]
    tokenizer = transformers.AutoTokenizer.from_pretrained(files.model)
    inputs = dict(tokenizer(list(texts), padding=True, return_tensors="np"))
    tokens = inputs["attention_mask"][..., None]
    _, off = errors_beside_pytorch(demo, inputs)
    for i, each in enumerate(off):
        assert_at_most(np.max(tokens * each), PROMISE, f"hidden state {i}")


def test_the_demo_model_on_noise(demo):
    config = BertConfig(vocab_size=30522)
    seeds = [inputs_for("BertModel", "heavy padding", config, seed) for seed in (0, 1)]
    inputs = {name: np.concatenate([each[name] for each in seeds]) for name in seeds[0]}
    exact, off = errors_beside_pytorch(demo, inputs)
    for i, likely in enumerate(expected_errors(demo[0], inputs, exact)):
        worst = (np.linalg.norm(off[i], axis=-1) / likely).max()
        assert_at_most(worst, MARGIN, f"hidden state {i}, error over what float32 explains")
