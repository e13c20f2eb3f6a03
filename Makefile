# The words of this project. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FEDGE := $(BIN)/fedge
BUILD_TOOLS := 'scikit-build-core>=0.11' 'pybind11>=2.13' 'cython>=3.0' 'cython-cmake>=0.2' 'cmake>=3.20' 'ninja>=1.10'
# The demonstration's recordings. Only a data file of the wheel is used, so its dependencies (202 MB on disk) stay out.
DEMO_DATA := 'seglearn==1.2.5'
# What the training kernels are measured beside, one thread each: of PyTorch the build for CPUs is enough.
TRAINING_PEERS := 'torch==2.13.0' 'opacus==1.6.*' scikit-learn opendp threadpoolctl
NATIVE := $(shell find native firmware_bridge CMakeLists.txt pyproject.toml -type f \
	\( -name '*.[ch]pp' -o -name '*.[ch]' -o -name '*.pyx' -o -name 'CMakeLists.txt' -o -name 'pyproject.toml' \))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-native test-python check lint types contracts sanitize fuzz-bindings package arm bench bench-setup clean

help: ## list these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

setup: $(VENV)/.fedge ## virtual environment with fedge built into it, editable

$(VENV)/.tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fedge needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@command -v c++ >/dev/null || { echo "fedge needs a C++ compiler: apt-get install g++" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { \
		echo "fedge needs Python's header files: apt-get install python3-dev" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "fedge needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check $(BUILD_TOOLS)
	@touch $@

$(VENV)/.fedge: $(VENV)/.tools $(NATIVE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[coordinator,dev]'
	@touch $@

$(VENV)/.demo: $(VENV)/.fedge
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(DEMO_DATA)
	@$(BIN)/pip install --quiet --disable-pip-version-check 'ai-edge-litert>=2.1' 2>/dev/null \
		|| echo "no LiteRT for this platform: the model is exported without a .tflite file"
	@touch $@

demo: $(VENV)/.demo ## build everything and run a private federation on real recordings
	$(FEDGE) demo

test: test-native test-python ## build everything and run all tests

test-native: $(VENV)/.fedge ## C and C++ unit tests under ctest
	$(BIN)/cmake --preset tests >/dev/null
	$(BIN)/cmake --build --preset tests
	$(BIN)/ctest --preset tests

test-python: $(VENV)/.demo ## Python tests under pytest
	$(BIN)/python -m pytest -q

check: lint types contracts ## style, types and layers

lint: $(VENV)/.fedge
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.fedge
	$(BIN)/mypy

contracts: $(VENV)/.fedge
	$(BIN)/lint-imports

sanitize: $(VENV)/.fedge ## the C and C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake --preset sanitize >/dev/null
	$(BIN)/cmake --build --preset sanitize
	$(BIN)/ctest --preset sanitize

SECONDS ?= 60
SEED ?= $$(date +%s)
fuzz-bindings: $(VENV)/.fedge ## wrong arguments at every kernel for SECONDS=60 from SEED, under the same sanitizers
	rm -rf build/fuzz/site
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --target build/fuzz/site \
		-C build-dir=build/fuzz/build -C cmake.build-type=Debug -C cmake.define.FEDGE_SANITIZE=ON .
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
		PYTHONPATH=build/fuzz/site:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))') \
		$(BIN)/python -S tests/native/fuzz_bindings.py --seconds $(SECONDS) --seed $(SEED) --progress build/fuzz/call \
		|| { echo "last call begun: $$(cat build/fuzz/call)" >&2; exit 1; }

package: $(VENV)/.fedge ## wheel and sdist, and the wheel tried in an environment of its own
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --no-isolation --outdir dist >/dev/null
	rm -rf build/try && $(PYTHON) -m venv build/try
	build/try/bin/pip install --quiet --disable-pip-version-check "$$(ls -t dist/fedge-*.whl | head -1)[coordinator]"
	cd build && try/bin/fedge --version && try/bin/fedge simulate --devices 20 --rounds 2 \
		&& try/bin/fedge bridge simulate --help >/dev/null \
		&& test -x "$$(try/bin/python -c 'from firmware_bridge.host_firmware import host_firmware_path as p; print(p())')"

arm: $(VENV)/.fedge ## cross-build wheels for ARM boards (64 and 32 bits) and test them emulated
	tests/arm/run.sh

bench-setup: $(VENV)/.demo ## install what the benchmarks compare with
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/pip install --quiet --disable-pip-version-check numpy 'flwr==1.42.0' \
		|| $(MAKE) .bench-venv/loose
	.bench-venv/bin/pip install --quiet --disable-pip-version-check $(TRAINING_PEERS)

# flwr 1.42 pins the newest certificates on the day of its release, which a registry that lags does not have yet. They play no part
# on loopback: take what there is.
.bench-venv/loose:
	.bench-venv/bin/pip install --quiet --disable-pip-version-check --no-deps 'flwr==1.42.0'
	.bench-venv/bin/python -c 'import importlib.metadata as m, subprocess, sys; \
		wanted = [r for r in m.requires("flwr") if "extra ==" not in r and not r.startswith("certifi")]; \
		subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "certifi", *wanted], check=True)'
	@touch $@

bench: $(VENV)/.demo ## run every benchmark: one line a case, ours beside the peer's
	$(BIN)/python -m benchmarks all

clean: ## remove what was built
	rm -rf build dist $(VENV) .bench-venv demo-output
