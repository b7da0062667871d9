# make demo        classify a few headlines with the shipped weights, offline
# make test        the tests but the slow ones, on every backend installed; test-slow: the slow
#                  ones, but for those that repeat for minutes, which SOAK=1 adds
# make lint        ruff and mypy
# make bench       documents per second on the backend and device at hand, beside the peers that
#                  can be installed; build/bench has the rows
# make build       wheel and sdist in dist/
# make test-lower  the tests with the lowest versions of the dependencies and of one backend that
#                  pyproject.toml admits, in an environment in build/
#
# The others set up what they need in .venv. BACKEND=jax is the lightest; a .venv that has a backend
# keeps it, and a PyTorch put there beforehand is left as it is.

PYTHON   ?= python3
VENV     ?= .venv
BIN      := $(VENV)/bin
PACKAGES := $(VENV)/lib/python3*/site-packages
BACKENDS := tensorflow jax torch
BACKEND  ?= $(firstword $(foreach name,$(BACKENDS),$(if $(wildcard $(PACKAGES)/$(name)),$(name))) \
                        tensorflow)
JOBS     ?= 2
# A thread a worker: those of PyTorch wait actively, and halve the speed where there are too many.
# Compiling takes most of the time of TensorFlow and JAX: XLA is told to spare its pains, and JAX to
# keep what it compiles, since test after test builds the same small models. A worker starts on a
# stretch of neighbouring tests, which share their models, and helps the other when it is through.
XLA      ?= --xla_backend_optimization_level=0
PYTEST   := OMP_NUM_THREADS=1 XLA_FLAGS=$(XLA) JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(VENV)/.jax \
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 $(BIN)/python -m pytest \
            --numprocesses=$(JOBS) --dist=worksteal --durations=12
# The cheapest to import and to test on, since it compiles nothing, comes first.
LIGHTEST  = $(firstword $(foreach name,torch jax tensorflow,$(if $(wildcard \
                          $(PACKAGES)/$(name)),$(name))))
MARKS    := not slow

.PHONY: demo test test-slow test-lower lint bench build test-installed test-any \
        $(BACKENDS:%=test-%)
.NOTPARALLEL:

demo: $(VENV)/.extra-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) HF_HUB_OFFLINE=1 $(BIN)/keras-agnews classify \
	    "Oil prices soar to an all-time record" \
	    "Giants win in overtime after a late goal" \
	    "Scientists launch a probe to map the far side of the moon" \
	    "Prime minister calls for peace talks as troops leave the border"

test: $(VENV)/.extra-$(BACKEND) $(VENV)/.extra-test
	@$(MAKE) --no-print-directory --keep-going MARKS="$(MARKS)" test-installed

# On the lightest one all that there are, in one run, then on the others those that depend on it.
test-installed: test-any $(filter-out test-$(LIGHTEST),$(BACKENDS:%=test-%))

test-slow: MARKS := slow$(if $(SOAK),, and not soak)
test-slow: test

test-any: $(VENV)/.extra-test
	KERAS_BACKEND=$(LIGHTEST) $(PYTEST) -m "$(MARKS)"

$(BACKENDS:%=test-%): test-%: $(VENV)/.extra-test
	@if [ -d $(PACKAGES)/$* ]; then set -x; KERAS_BACKEND=$* $(PYTEST) -m "backend and not once and $(MARKS)"; \
	else echo "SKIPPED: $* is not installed in $(VENV), so nothing is tested on it"; fi

test-lower:
	mkdir -p build
	$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    bounds = project["dependencies"] + project["optional-dependencies"]["$(BACKEND)"]; \
	    print(*(bound.partition(";")[0].replace(">=", "==") for bound in bounds), sep="\n")' \
	    > build/lower.txt
	PIP_CONSTRAINT=build/lower.txt $(MAKE) test VENV=build/lower-$(BACKEND) BACKEND=$(BACKEND)

lint: $(VENV)/.extra-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.extra-$(BACKEND) $(VENV)/.extra-bench
	$(BIN)/python -m benchmarks.run --quick --backends $(BACKEND) --output build/bench

build: | $(BIN)/pip
	$(BIN)/python -m pip install "build>=1.2"
	$(BIN)/python -m build

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.extra-%: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable ".[$*]"
	touch $@
