# The front door: each target installs, configures and builds what it needs, then runs. `make help` lists them.

BUILD := build
PYTHON := .venv/bin/python
# A Python that has PyTorch with CUDA, and pytest for the tests. heed is the one it has installed, or that of build/.
GPU_PYTHON ?= python3

.PHONY: help setup build demo wheel test test-quick test-masks test-gpu bench bench-gpu format lint docs clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what is missing: apt packages, a Python environment in .venv
	@scripts/setup.sh

$(BUILD)/build.ninja: CMakePresets.json | setup
	cmake --preset dev

build: setup $(BUILD)/build.ninja ## build the compiler, the runtime and the unit tests
	ninja -C $(BUILD)

demo: build ## compile the examples, run them, check them
	$(PYTHON) examples/demo.py
	$(PYTHON) examples/python/flex_attention.py

wheel: setup ## build the self-contained Python package, into dist/
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -lh dist

test: build build-fuzz wheel ## run every test; ends with 'N passed, N failed, N skipped'
	@scripts/setup.sh test
	$(PYTHON) scripts/run_tests.py

test-quick: build ## the tests that take little time: 73 s on two cores
	@scripts/setup.sh test
	$(PYTHON) scripts/run_tests.py --quick

test-masks: build ## a million random masks of the language against brute force, and 80,000 of Python; new ones each time, an hour or two
	HEED_SOUNDNESS_SEED=$$(date +%s) HEED_SOUNDNESS_MASKS=1000000 $(BUILD)/bin/heed-block-classes-tests --gtest_filter='*Random*'
	HEED_RANDOM_FACTOR=20 $(PYTHON) -m pytest -q test/python/test_block_runs.py -k random

test-gpu: ## the tests that take an NVIDIA GPU; GPU_PYTHON has PyTorch with CUDA
	@$(GPU_PYTHON) scripts/run_gpu_tests.py --find-gpu
	@$(GPU_PYTHON) -c 'import heed' 2>/dev/null || $(MAKE) --no-print-directory build
	$(GPU_PYTHON) scripts/run_gpu_tests.py

.PHONY: build-fuzz
build-fuzz: setup build-fuzz/build.ninja
	ninja -C build-fuzz heed-fuzzers

build-fuzz/build.ninja: CMakePresets.json | setup
	cmake --preset fuzz

bench: build ## measure against other libraries (installs PyTorch)
	@scripts/setup.sh test
	$(PYTHON) benchmarks/bench_cpu.py
	$(PYTHON) benchmarks/bench_call.py
	$(PYTHON) benchmarks/bench_masks.py

bench-gpu: ## measure against PyTorch on an NVIDIA GPU; GPU_PYTHON has PyTorch with CUDA
	@$(GPU_PYTHON) scripts/run_gpu_tests.py --find-gpu
	@$(GPU_PYTHON) -c 'import heed' 2>/dev/null || $(MAKE) --no-print-directory build
	$(GPU_PYTHON) benchmarks/bench_gpu.py
	$(GPU_PYTHON) benchmarks/bench_masks.py --device cuda

format: build ## lay out C++ and .heed sources
	@scripts/format.sh

lint: setup ## check the Python code with ruff and mypy
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

docs: build ## regenerate what docs/ quotes from the .td files and from the tools
	$(PYTHON) scripts/gen_docs.py
	$(PYTHON) scripts/update_docs.py

clean: ## remove build directories; .venv stays
	rm -rf build build-*/ demo-out bench-out dist
