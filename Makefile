# make demo   fine-tune a real BERT on real text and print how it did
# make test   everything that CI runs
# make bench  time training and inference against PyTorch
# make bench-run DATA=DIR  time whole runs of the command beside PyTorch's Trainer
# make bench-environments  so that `bench` has HF Flax and KerasHub too
# make peer-environments   for `python -m benchmarks.peers`
#
# Each makes the environment it needs in $(VENV) from pyproject.toml, once.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
# Compiling dominates the tests, on one core each: two files at a time.
PYTEST := -n 2 --dist loadfile
NEWER := $(VENV)-3.12

.PHONY: demo test lint test-newer bench bench-run bench-environments peer-environments env env-test clean

demo: env
	$(BIN)/jaxbert demo $(ARGS)

test: lint
	$(BIN)/python -m pytest $(PYTEST)
	$(MAKE) test-newer

lint: env-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

# The newest JAX needs Python 3.12. There is no PyTorch for it everywhere: what PyTorch computes is in
# tests/golden. It runs a part, chosen to compute everything once: models, optimizers, every way to
# run a step, checkpoints, whole trainings. What reads, prints and plots is the same on both.
NEWER_TESTS := tests/models tests/optim tests/plan tests/tasks/test_every_task.py \
  tests/weights/test_families.py tests/weights/test_pretrained.py tests/test_extension.py \
  $(patsubst %,tests/training/test_%.py,checkpoints distributed engines export family_steps \
    inference points train_step trained_methods trainer)
test-newer:
	@if python3.12 -c '' 2>/dev/null; then $(MAKE) $(NEWER)/ready && \
	  $(NEWER)/bin/python -m pytest $(PYTEST) $(NEWER_TESTS); \
	else echo 'python3.12 cannot be called: the tests on the newest JAX are left out'; fi

# Other packages' sides need environments of their own; without them `bench` leaves those out.
bench-environments: .venv-hf-flax/ready .venv-keras-hub/ready

peer-environments: .venv-hf-flax-export/ready .venv-keras-hub/ready .venv-torchax/ready

.venv-hf-flax/ready: benchmarks/environments/hf_flax.txt
.venv-hf-flax-export/ready: benchmarks/environments/hf_flax_export.txt
.venv-torchax/ready: benchmarks/environments/torchax.txt

.venv-hf-flax/ready .venv-hf-flax-export/ready .venv-torchax/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

.venv-keras-hub/ready: benchmarks/environments/keras_hub.txt
	$(PYTHON) -m venv .venv-keras-hub
	.venv-keras-hub/bin/python -m pip install --quiet --requirement $<
	.venv-keras-hub/bin/python -m pip install --quiet --no-deps keras-hub==0.32.0
	touch $@

bench: env-test
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-run: env-test
	$(BIN)/python -m benchmarks.level --data $(DATA) --only sst2 \
	  --sides jaxbert torch torch-random torch-padded $(ARGS)

env: $(VENV)/ready
env-test: $(VENV)/ready-test

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

$(VENV)/ready-test: $(VENV)/ready
	$(PIP) --editable '.[test,torch]'
	touch $@

$(NEWER)/ready: pyproject.toml
	python3.12 -m venv $(NEWER)
	$(NEWER)/bin/python -m pip install --quiet --upgrade pip
	$(NEWER)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(NEWER) .pytest_cache .ruff_cache .hypothesis build *.egg-info
