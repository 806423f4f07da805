# make course   set up, fetch the model, run lessons 00 and 02, write site/index.html
#               (LESSONS="03 05" runs these, LESSONS= all of them)
# make test     set up, lint, type-check, run every test
# make quick    lint, types, unit tests without training: about two minutes
# make test-gpu kernels and memory on the CUDA card of this machine
# make test-avx2 all tests, on this machine playing a processor with AVX2 alone
# make test-hub a real JupyterHub, driven in a browser (needs Chromium and Node.js)
# make deepspeed DeepSpeed for --sharding zero1|zero2|zero3, into build/deepspeed
# make lab      JupyterLab on this machine
# make sync     build the notebooks from lessons/*.py (EXECUTE=1 also renews the stored outputs)
# make lint     the checks that need no training
# make release  student copies without solutions, and a gradebook with an assignment a lesson
#               (DUE=2026-09-07 says when week 1 is due, and every week after it)
#
# PYTHON=/path/to/python3.11   which Python makes the environment
# TORCH_INDEX=URL              an extra package index, for PyTorch's own CPU wheels

PYTHON ?= python3.11
VENV ?= .venv
TORCH_INDEX ?=
WORKERS ?= 2
GRADEBOOK ?= gradebook
LESSONS ?= 00 02
TESTS ?=

# Compiled code that one kind of processor kept is not for the other.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 LABKIT_INT8=avx2 \
        TORCHINDUCTOR_CACHE_DIR=$(abspath build/inductor-avx2)
# Files in their own order, so that the lessons are not what is left at the end; a test that hangs is
# ended, with a trace of where.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 900 --durations 15
ARITHMETIC := $(addprefix tests/,machine/test_arithmetic.py train/test_fast_step.py \
        inference/test_evaluate.py sweep bench/switchback bench/step/test_compare.py)

BIN := $(VENV)/bin
PROXY_VERSION := 5.3.0
PROXY := build/hub/node_modules/.bin/configurable-http-proxy
CHROMIUM := chromium chromium-browser google-chrome
PY := $(BIN)/python
STAMP := $(VENV)/installed.stamp
ZERO := build/deepspeed/installed.stamp
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install course deepspeed quick test test-avx2 test-gpu test-hub lab sync lint release clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' is not a Python 3.11; install Python 3.11 or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# labkit itself goes in without dependencies: nothing can come that the lock does not name.
$(STAMP): requirements.lock pyproject.toml | $(PY)
	$(PY) -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock
	$(PY) -m pip install --no-deps --no-build-isolation --quiet -e .
	@touch $@

deepspeed: $(ZERO)

# A folder of its own, for the processes that train by it alone: wherever libraries find it, they
# import it. Its operations are not compiled, none is used.
$(ZERO): requirements-deepspeed.lock $(STAMP)
	rm -rf $(@D)
	DS_BUILD_OPS=0 DS_SKIP_CUDA_CHECK=1 $(PY) -m pip install --quiet --no-deps --no-build-isolation \
	  --target $(@D) -r $<
	@touch $@

course: $(STAMP)
	$(BIN)/labkit fetch
	$(BIN)/labkit course $(LESSONS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo
	$(PY) -m mypy

# What is marked slow is left out (tests/slow.txt lists it); nothing is fetched first.
quick: lint
	TORCHINDUCTOR_CACHE_DIR=$(abspath build/inductor) OMP_NUM_THREADS=1 \
	  $(PY) -m pytest $(PARALLEL) -q -m "not slow"

# One thread a worker: two workers fill two cores, and sums come out in one order everywhere.
# What depends on the arithmetic is tested on both kinds of processor, where this one can play both.
test: lint $(ZERO)
	$(BIN)/labkit fetch
	TORCHINDUCTOR_CACHE_DIR=$(abspath build/inductor) OMP_NUM_THREADS=1 \
	  $(PY) -m pytest $(PARALLEL)
	@if grep -qw avx512f /proc/cpuinfo; then $(MAKE) --no-print-directory test-avx2 TESTS="$(ARITHMETIC)"; fi

# The tests on this machine as a processor that has AVX2 and neither bfloat16 nor int8 units.
test-avx2: $(STAMP) $(ZERO)
	$(AVX2) OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) $(TESTS)

test-gpu: $(STAMP)
	$(PY) -m pytest tests/gpu

# The hub's proxy goes into a folder of this checkout.
$(PROXY):
	@command -v npm >/dev/null || { \
	  echo "make: npm is missing; install Node.js 20 (Debian: apt-get install nodejs npm)" >&2; exit 2; }
	npm install --prefix build/hub --no-fund --no-audit --silent configurable-http-proxy@$(PROXY_VERSION)
	@touch $@

test-hub: $(STAMP) $(PROXY)
	@for name in $$LABKIT_CHROMIUM $(CHROMIUM); do command -v $$name >/dev/null && exit 0; done; \
	  echo "make: Chromium is missing; install it (Debian: apt-get install chromium)," >&2; \
	  echo "      or name one: LABKIT_CHROMIUM=/path/to/chrome make test-hub" >&2; exit 2
	$(BIN)/labkit fetch
	$(PY) -m pytest tests/hub
	@echo "What the students saw: build/hub-screenshots/"

lab: $(STAMP)
	LABKIT_RUNS=$${LABKIT_RUNS:-$(abspath runs)} $(PY) -m jupyterlab --ip 127.0.0.1 \
	  --notebook-dir lessons --KernelManager.transport_encryption=auto

sync: $(STAMP)
	$(PY) -m labkit.course lessons $(if $(EXECUTE),--execute)

# Grades and submissions that are in the gradebook stay: `make clean` leaves it alone as well.
release: $(STAMP)
	$(PY) -m labkit.course.release lessons $(GRADEBOOK) $(if $(DUE),--due $(DUE))

clean:
	rm -rf build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
