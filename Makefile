# Every target sets up .venv and builds the operators by itself on a fresh machine, and again only what has changed.
# NEUROCUDA_BUILD=none builds nothing: the reference operators serve.
# Another torch: `rm -r .venv`, then `make TORCH="torch --index-url ..." TORCHVISION=... test`. Of torchvision, which is
# installed without its dependencies, the tests use the models alone.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
WORKERS ?= 2

BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
BENCH_INSTALLED := .venv-bench/.installed
INSTALLED := .venv/.installed
BUILT := .venv/.built
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

SANITIZED := build/sanitize
SANITIZERS = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)

EMULATED := build/emulate

.PHONY: help demo test test-full test-1000 instructions memcheck sanitize emulate emulate-sanitize cuda-check cuda-build bench bench-gpu bench-convert bench-sweeps bench-env lint format clean

help:
	@echo "demo       run the held-out digits through examples/digits/digits.nir, and draw the spikes"
	@echo "test       the tests, but for those that take long and rarely fail"
	@echo "test-full  all tests; those of kernels once more on fewer instructions, and emulated, half of them in either order"
	@echo "test-1000  all tests, with ten times as many random graphs"
	@echo "instructions  the tests of kernels and libraries as on a processor with AVX2 and no more; of kernels, without that"
	@echo "sanitize   the tests of the operators, built with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "memcheck   gradients of residual networks under valgrind: no write outside its memory"
	@echo "emulate    the tests of the operators on the source of the CUDA kernels, compiled as C++, in both orders of threads"
	@echo "emulate-sanitize  the same once, built with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "cuda-check what nvcc makes of the CUDA kernels for five architectures: csrc/cuda/kernels.csv; needs no GPU"
	@echo "cuda-build build all against a CUDA build of torch, kept in ~/.cache/neurocuda, and check it; needs no GPU"
	@echo "bench      measure side by side with other simulators, plain PyTorch and the physical floor"
	@echo "bench-gpu  the same on a GPU, and every operator against its bandwidth; without one, the floors as a prediction"
	@echo "bench-convert  accuracy over time of converted networks, beside the original and SpikingJelly"
	@echo "bench-sweeps  how cost grows with neurons, steps, batch, density of events and threads"
	@echo "lint       ruff, mypy, import-linter, clang-format"
	@echo "format     let ruff and clang-format rewrite the sources"
	@echo "clean      remove what was built, cached and drawn (not .venv)"

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) setuptools wheel ninja pybind11
	NEUROCUDA_BUILD=none $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCHVISION) pillow
	touch $@

# In place, by ninja, so that only what has changed is compiled again.
$(BUILT): $(INSTALLED) $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

demo: $(BUILT)
	$(BIN)/python -m examples.digits.demo

# One thread for each worker: more would only compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: $(BUILT)
	$(PYTEST) -m "not slow"

test-full: $(BUILT)
	$(PYTEST)
	$(if $(filter none,$(NEUROCUDA_BUILD)),,$(MAKE) instructions emulate HALVES=1)

test-1000: $(BUILT)
	NEUROCUDA_FULL=1 $(PYTEST)

AT := $(BIN)/python tests/support/instructions.py
OPERATORS := tests/ops --ignore=tests/ops/test_triton.py --ignore=tests/ops/test_triton_code.py --ignore=tests/ops/test_cuda_code.py

instructions: $(BUILT)
	OMP_NUM_THREADS=1 $(AT) avx2 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" -p no:cacheprovider \
	  $(OPERATORS) tests/runtime tests/convert/training tests/test_nn.py
	OMP_NUM_THREADS=1 $(AT) baseline $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" -p no:cacheprovider \
	  $(OPERATORS)

# In a copy of its own, whose objects stay there: gcc, as the runtimes come with it.
sanitize: $(INSTALLED)
	mkdir -p $(SANITIZED)
	rm -rf $(addprefix $(SANITIZED)/,neurocuda csrc tests)
	cp -pR neurocuda csrc tests setup.py pyproject.toml $(SANITIZED)
	rm -f $(SANITIZED)/neurocuda/*.so
	cd $(SANITIZED) && CC=gcc CXX=g++ NEUROCUDA_SANITIZE=1 NEUROCUDA_BUILD=cpu PATH="$(CURDIR)/$(BIN):$$PATH" \
	  $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_NUM_THREADS=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) -m "sanitized and not cuda" -p no:cacheprovider tests/ops tests/runtime

# In a copy of its own: there the CPU stands for a CUDA device.
define build_emulated
	mkdir -p $(1)
	rm -rf $(addprefix $(1)/,neurocuda csrc tests)
	cp -pR neurocuda csrc tests setup.py pyproject.toml $(1)
	rm -f $(1)/neurocuda/*.so
	cd $(1) && $(2) NEUROCUDA_BUILD=emulated PATH="$(CURDIR)/$(BIN):$$PATH" \
	  $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
endef

define run_emulated
	cd $(EMULATED) && NEUROCUDA_EMULATION_ORDER=$(1) NEUROCUDA_HALF=$(if $(HALVES),$(2)) OMP_NUM_THREADS=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) -m "emulated and not cuda" -p no:cacheprovider tests/ops tests/runtime
endef

# HALVES=1: half of the tests in one order of threads, the other half in the other.
emulate: $(INSTALLED)
	$(call build_emulated,$(EMULATED),)
	$(call run_emulated,forward,0)
	$(call run_emulated,reverse,1)

emulate-sanitize: $(INSTALLED)
	$(call build_emulated,$(EMULATED)-sanitize,CC=gcc CXX=g++ NEUROCUDA_SANITIZE=1)
	cd $(EMULATED)-sanitize && LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_NUM_THREADS=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) -m "emulated and not cuda" -p no:cacheprovider tests/ops tests/runtime

# Gradients of residual networks under valgrind, from Debian, which has AVX2 and no AVX-512: nothing may write outside its
# memory. Reads are not counted: the loader's own, and those of Python's strings, go over in whole words.
memcheck: $(BUILT)
	mkdir -p build
	PYTHONPATH=. PYTHONMALLOC=malloc OMP_NUM_THREADS=1 valgrind --undef-value-errors=no --smc-check=all-non-file \
	  --log-file=build/memcheck.log $(BIN)/python tests/support/residual_gradients.py 3
	@echo "invalid writes: $$(grep -c 'Invalid write' build/memcheck.log)"
	! grep -q 'Invalid write' build/memcheck.log

# It needs nvcc; the disassembler comes with Triton.
cuda-check: $(INSTALLED)
	$(BIN)/python tests/support/cuda_code.py

# It needs nvcc, and 5.5 GB for an environment that outlives the clone.
cuda-build:
	$(PYTHON) tests/support/cuda_build.py

bench: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python -m benchmarks.peers $(BENCH)

bench-gpu: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python -m benchmarks.gpu $(BENCH)

bench-convert: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python -m benchmarks.convert $(BENCH)

bench-sweeps: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python -m benchmarks.sweeps $(BENCH)

bench-env: $(BENCH_INSTALLED)

# Peers one by one, so that one that does not install leaves the others; the table names it.
$(BENCH_INSTALLED): pyproject.toml setup.py benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) setuptools wheel
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[demo]"
	-grep -v '^#' benchmarks/requirements.txt | xargs -n 1 $(BENCH_BIN)/python -m pip install --quiet --no-deps
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(SOURCES),$(BIN)/clang-format --dry-run --Werror $(SOURCES))

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(SOURCES),$(BIN)/clang-format -i $(SOURCES))

clean:
	rm -rf build *.egg-info neurocuda/*.so .venv/.built .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache examples/digits/out
	find neurocuda tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
