# Every target creates .venv and builds the native operators if needed; a rebuild compiles only changed files.
# NEUROCUDA_BUILD=none builds nothing: the reference operators run instead.
# Another torch: `rm -r .venv`, then `make TORCH="torch --index-url ..." TORCHVISION=... test`. torchvision is installed
# without its dependencies; the tests use only its models.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
WORKERS ?= 2

BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
BENCH_INSTALLED := .venv-bench/.installed
INTEROP_BIN := .venv-interop/bin
INTEROP_INSTALLED := .venv-interop/.installed
INSTALLED := .venv/.installed
BUILT := .venv/.built
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

SANITIZED := build/sanitize
SANITIZERS = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)

EMULATED := build/emulate

.PHONY: help demo test test-full test-1000 instructions memcheck sanitize emulate emulate-sanitize cuda-check cuda-build bench bench-gpu bench-convert bench-sweeps bench-env interop-env presets lint format clean

help:
	@echo "demo              run the digits example: accuracy, firing rates, times, and a raster plot of the spikes"
	@echo "test              all tests except those that take long and rarely fail"
	@echo "test-full         all tests; those of kernels again with fewer instructions, and the emulated CUDA kernels"
	@echo "test-1000         all tests, with ten times as many random graphs"
	@echo "instructions      the tests of kernels and vendor libraries with AVX2 only; those of kernels also without AVX2"
	@echo "sanitize          the tests of the operators with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "memcheck          gradients of residual networks under valgrind: no write out of bounds"
	@echo "emulate           the tests of the operators on the CUDA kernels compiled as C++, in both orders of threads"
	@echo "emulate-sanitize  the same once, with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "cuda-check        check the code that nvcc generates for five architectures (csrc/cuda/kernels.csv); no GPU"
	@echo "cuda-build        build against a CUDA build of torch, stored in ~/.cache/neurocuda, and check it; no GPU"
	@echo "bench             compare with other simulators, plain PyTorch and the physical floor, in turns"
	@echo "bench-gpu         the same on a GPU, and each operator against its bandwidth; without one, a prediction"
	@echo "bench-convert     accuracy over time of converted networks, the original and SpikingJelly"
	@echo "bench-sweeps      cost over neurons, time steps, batch, density of events and threads"
	@echo "interop-env       install the simulators that the presets are named after, in .venv-interop, for tests/interop"
	@echo "presets           build and run networks in them, and write docs/presets.md"
	@echo "lint              ruff, mypy, import-linter, clang-format"
	@echo "format            rewrite the sources with ruff and clang-format"
	@echo "clean             remove build outputs, caches and plots (not .venv)"

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) setuptools wheel ninja pybind11
	NEUROCUDA_BUILD=none $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCHVISION) pillow
	touch $@

# In place, with ninja, which compiles only changed files.
$(BUILT): $(INSTALLED) $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

demo: $(BUILT)
	$(BIN)/python -m examples.digits.demo

# One thread per worker: more threads would compete for the cores.
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

# In a separate copy, which keeps its objects; gcc, because it ships the sanitizer runtimes.
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

# In a separate copy, in which the CPU plays the CUDA device.
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

# HALVES=1: half of the tests in each order of threads.
emulate: $(INSTALLED)
	$(call build_emulated,$(EMULATED),)
	$(call run_emulated,forward,0)
	$(call run_emulated,reverse,1)

emulate-sanitize: $(INSTALLED)
	$(call build_emulated,$(EMULATED)-sanitize,CC=gcc CXX=g++ NEUROCUDA_SANITIZE=1)
	cd $(EMULATED)-sanitize && LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_NUM_THREADS=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) -m "emulated and not cuda" -p no:cacheprovider tests/ops tests/runtime

# Gradients of residual networks under Debian's valgrind, which has AVX2 and no AVX-512: no write out of bounds. Reads are
# not counted: the loader and Python's strings read whole words beyond the end.
memcheck: $(BUILT)
	mkdir -p build
	PYTHONPATH=. PYTHONMALLOC=malloc OMP_NUM_THREADS=1 valgrind --undef-value-errors=no --smc-check=all-non-file \
	  --log-file=build/memcheck.log $(BIN)/python tests/support/residual_gradients.py 3
	@echo "invalid writes: $$(grep -c 'Invalid write' build/memcheck.log)"
	! grep -q 'Invalid write' build/memcheck.log

# Needs nvcc; the disassembler comes with Triton.
cuda-check: $(INSTALLED)
	$(BIN)/python tests/support/cuda_code.py

# Needs nvcc, and 5.5 GB for an environment outside the clone.
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

# Installs the peers one by one, so that one failure leaves the others; the table of results names it.
$(BENCH_INSTALLED): pyproject.toml setup.py benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) setuptools wheel
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[demo]"
	-grep -v '^#' benchmarks/requirements.txt | xargs -n 1 $(BENCH_BIN)/python -m pip install --quiet --no-deps
	touch $@

interop-env: $(INTEROP_INSTALLED)

# sinabs pins an old nir and the driver of a chip, which it does not import: without its dependencies.
$(INTEROP_INSTALLED): tests/interop/requirements.txt
	$(PYTHON) -m venv .venv-interop
	$(INTEROP_BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
	$(INTEROP_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps sinabs==3.1.3
	touch $@

RECORDED := build/interop

presets: $(BUILT) $(INTEROP_INSTALLED)
	rm -rf $(RECORDED)
	cd tests/interop && OMP_NUM_THREADS=1 ../../$(INTEROP_BIN)/python -m record ../../$(RECORDED)
	cd tests/interop && OMP_NUM_THREADS=1 PYTHONPATH=../.. ../../$(INTEROP_BIN)/python live.py ../../$(RECORDED)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/interop/presets.py $(RECORDED)

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
