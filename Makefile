# make demo | test | build | lint | types | sanitize | abi | bench | info | cuda-library | gpu | clean
#
# Everything runs in an environment of its own, .venv, made from the pinned requirements. With VENV=none the
# interpreter PYTHON is used as it is, with its own torch, and nothing is downloaded.
#   make test VENV=none PYTHON=/path/to/python
# PyPI's torch for Linux carries CUDA (gigabytes). An index with CPU builds (PyTorch's site names one) is searched too:
#   make test TORCH_INDEX=<url>

VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?=
JOBS := $(shell n=$$(nproc); echo $$((n > 8 ? 8 : n)))

ifeq ($(VENV),none)
  PY := $(PYTHON)
  env :=
else
  PY := $(VENV)/bin/python
  env = $(VENV)/.$(1)
endif
CXX_FILES = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | LC_ALL=C sort)
CLANG_FORMAT = $(if $(filter none,$(VENV)),clang-format,$(VENV)/bin/clang-format)

.PHONY: build test test-kernels demo bench info check lint format types sanitize cuda-resources triton cuda-library gpu $(GPU_STAGES) abi clean
.DEFAULT_GOAL := build

# One stamp per requirements file: an environment is extended, never made anew.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convkit: make needs Python >= 3.11 (make PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: requirements/%.txt requirements/build.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $<
	@touch $@

build: $(call env,build)
	$(PY) tools/native_build.py --install

# Tests run in several processes, where the interpreter has pytest-xdist. Each gets its share of the cores; tests
# about threads choose their own number.
WORKERS = $$($(PY) -c 'import xdist' 2>/dev/null && echo '-n $(JOBS) --dist worksteal')
# The tests that run compiled kernels, for the builds and settings that `make test` leaves out.
KERNEL_TESTS = tests/test_core.py tests/test_raw_ops.py tests/test_conv_depthwise.py tests/test_conv_gemm.py \
  tests/test_pool_kernels.py tests/test_unpool.py::test_random_problems_against_pytorch \
  tests/test_lp_pool.py::test_values_and_gradients_are_pytorchs \
  tests/test_lp_pool.py::test_norm_neither_overflows_nor_vanishes \
  tests/test_stochastic_pool.py::test_the_same_choices_in_every_layout \
  tests/test_stochastic_pool.py::test_squares_neither_overflow_nor_vanish
# Without the GPU part, which nothing here can run: its kernels are tested on the emulator.
TEST_BUILD = CONVKIT_CUDA=0 $(PY) tools/native_build.py --install --testing
test: $(call env,test)
	$(TEST_BUILD)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PY) -m pytest $(WORKERS) $(ARGS)

test-kernels: $(call env,test)
	$(TEST_BUILD)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PY) -m pytest -q $(WORKERS) $(KERNEL_TESTS) $(ARGS)

# For this machine: the GPU part takes minutes to compile, and is left out where no GPU would run it.
GPU_PART = $${CONVKIT_CUDA:-$$(nvidia-smi -L >/dev/null 2>&1 && echo auto || echo 0)}
BUILD_FOR_HERE = CONVKIT_CUDA=$(GPU_PART) $(PY) tools/native_build.py --install
demo: $(call env,demo)
	$(BUILD_FOR_HERE)
	$(PY) -m convkit demo $(ARGS)

bench: $(call env,demo)
	$(BUILD_FOR_HERE)
	$(PY) -m bench.run $(ARGS)

info check: build
	$(PY) -m convkit $@

lint: $(call env,lint)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run -Werror $(CXX_FILES)

format: $(call env,lint)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CXX_FILES)

types: $(call env,lint) $(call env,build)
	$(PY) -m mypy

# g++'s runtimes come first into the process, which Python started without them. Leaks are not looked for:
# the interpreter and torch keep memory until the process ends. The kernels for AVX2 are the same text between the two
# others' vector lengths. One test in six is run: the rest repeats its paths, at five times the time.
SANITIZED = $(CURDIR)/build/sanitize
SANITIZED_RUN = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) \
  CONVKIT_LIBRARY=$(SANITIZED)/convkit_ops.so CONVKIT_BUILD_DIR=$(SANITIZED)
sanitize: $(call env,test)
	CXX=g++ CONVKIT_CUDA=0 CONVKIT_BUILD_ISAS=avx512 $(PY) tools/native_build.py --build-dir $(SANITIZED) --sanitize address,undefined --testing
	for isa in portable avx512; do CONVKIT_CPU_ISA=$$isa $(SANITIZED_RUN) $(PY) tools/smoke.py || exit 1; done
	$(SANITIZED_RUN) $(PY) -m pytest -q $(WORKERS) --share 6 $(KERNEL_TESTS) $(ARGS)
	$(SANITIZED_RUN) $(PY) -m pytest -q tests/sanitized_simt.py $(ARGS)

# Needs nvcc (says so where there is none), and no GPU.
cuda-resources: $(call env,cuda)
	$(PY) tools/cuda_resources.py $(ARGS)

# The library with GPU kernels, built beside the one for tests (machine code for one GPU, and PTX): it links, loads and
# computes on the CPU. Needs nvcc (says so where there is none), and no GPU.
CUDA_LIBRARY = $(CURDIR)/build/release/convkit_ops.so
cuda-library: $(call env,test)
	CONVKIT_CUDA_ARCHS=$${CONVKIT_CUDA_ARCHS:-80} $(PY) tools/native_build.py --testing
	CONVKIT_LIBRARY=$(CUDA_LIBRARY) PYTHONPATH=$(CURDIR) $(PY) tools/smoke.py
	CONVKIT_LIBRARY=$(CUDA_LIBRARY) $(PY) -m pytest -q tests/test_gpu_choice.py

# On a machine with a GPU: builds for it, runs the tests marked gpu, compute-sanitizer and the benchmark, with the
# interpreter as it is (PYTHON, with torch and pytest) and no network. Or one stage.
GPU_STAGES = gpu-build gpu-test gpu-sanitizer gpu-triton gpu-bench
gpu:
	$(PYTHON) tools/gpu.py $(ARGS)
$(GPU_STAGES):
	$(PYTHON) tools/gpu.py $(@:gpu-%=%) $(ARGS)

# Compiles the Triton kernels for GPUs that are not there.
triton: $(call env,test)
	$(PY) tools/triton_aot.py $(ARGS)

abi: $(call env,build) build
	$(PY) tools/abi_smoke.py $(if $(TORCH_INDEX),--index $(TORCH_INDEX)) $(ARGS)

clean:
	rm -rf build dist *.egg-info convkit/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
