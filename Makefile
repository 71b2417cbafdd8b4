# make train    learn the embedded digits: .venv, PyTorch, the build and `aevb train`, from nothing (ARGS="--latent 2")
# make test     the tests, in the same .venv (ARGS="-k kl")
# make conformance   other people's programs on these operators, with their packages from the index (ARGS="-k pythae"),
#               and of the packages' own tests a selection (ARGS="--whole-suites -k own": all)
# make lint     ruff, clang-format, actionlint, and mypy, over the package and over programs that use it
# make wheel    a wheel for this Python and torch in dist/, audited, and tried where there is torch alone and no compiler
# make sdist    the source distribution in dist/, tried as a folder and as an archive
# make docs     this documentation as a site that works offline: build/site/index.html
# make cuda     the CUDA build in .venv-cuda, checked without a GPU
# make bench    in .venv: every operator and step against its rivals, JAX too (ARGS="--only gaussian")
# make fuzz     random calls of every public function against float64 formulas (ARGS="--cases 84000": a million calls)
# make sanitize the same on a build that watches every access to memory (AddressSanitizer), and hostile calls of operators
# make mutants  faults built into a copy of the sources, each of which has to make a test fail
# make emulate  the tests of the operators on the CUDA kernels, compiled for the CPU and watched (ARGS="-k layouts")
# make formulas the tests of the operators on the formulas in plain PyTorch, as without a compiled library
# make count    instructions of the CPU kernels against benchmarks/instructions.json, where there is valgrind
# make count-gpu   the same of the CUDA kernels, without a GPU, against benchmarks/gpu_instructions.json, where there is nvcc
# make gpu      on a machine with a GPU: build in place with PYTHON as it is, one test of each operator and dtype, sanitizer;
# make gpu-test, make gpu-bench   all its tests; the benchmarks. Each within eight minutes, and goes on when called again
# make clean    remove what these made

PYTHON ?= python3
TORCH ?= torch==2.13.0
CUDA_TORCH ?= torch==2.11.0
CUDA_HOME ?= /usr/local/cuda
ARGS ?=
# The tests share nothing but what a file's tests share: a few processes at a time, each with whole files where it can.
PYTEST := pytest -n auto --maxprocesses 4 --dist worksteal

SOURCES := setup.py setup_cuda.py setup_version.py aevb_ext/_build_note.py $(shell find csrc -type f)
MODULES := aevb_command.py $(shell find aevb_ext -name '*.py' -o -name '*.npz')

# Bytecode is kept whatever the environment says: the tests start Python a hundred times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test conformance lint wheel sdist docs cuda bench fuzz sanitize mutants emulate formulas count count-gpu gpu gpu-test gpu-bench clean FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

train: .venv/installed
	.venv/bin/aevb train $(ARGS)

test: .venv/installed-test
	.venv/bin/$(PYTEST) $(ARGS)

# The packages warn of each other's deprecations.
conformance: .venv/installed-conformance
	.venv/bin/$(PYTEST) --disable-warnings $(ARGS) tests/conformance

lint: .venv/installed-lint .venv/installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/actionlint .github/workflows/*.yml
	.venv/bin/mypy
	.venv/bin/pytest -q tests/static
	find csrc tests/emulation -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs .venv/bin/clang-format --dry-run -Werror

# What libtorch and CUDA bring stays outside. build/lib may have modules that are no longer there.
wheel: .venv/installed-wheel
	@rm -rf build/lib* build/wheel
	AEVB_WHEEL=1 .venv/bin/pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w build/wheel .
	.venv/bin/auditwheel show build/wheel/*.whl
	PATH="$(CURDIR)/.venv/bin:$$PATH" auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libcudart.so.*' \
		-w dist build/wheel/*.whl
	.venv/bin/pytest -s -q $(ARGS) tests/packaging/test_wheel.py

sdist: .venv/installed-wheel
	.venv/bin/python -m build --sdist --no-isolation
	.venv/bin/pytest -s -q $(ARGS) tests/packaging/test_sdist.py

# From the sources alone: nothing is compiled or imported.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean $(ARGS)

cuda: .venv-cuda/installed
	@# From .venv-cuda, where `import aevb_ext` finds the installed package and not this folder's CPU build.
	@# One thread for each process of tests; `make test` has several.
	cd .venv-cuda && OMP_NUM_THREADS=1 AEVB_CUDA=1 bin/$(PYTEST) -c ../pyproject.toml --rootdir .. -m "not slow and not cuda and not once" $(ARGS) ../tests

bench: .venv/installed-bench
	.venv/bin/python -m benchmarks $(ARGS)

fuzz: .venv/installed-test
	PYTHONPATH=tests .venv/bin/python -m fuzz $(ARGS)

# A copy of the package with a library of its own. What is preloaded has to be there before libtorch is; Python does not
# free all that it has at its end.
SANITIZED := build/sanitized
# Optimised, or with what looks for undefined behaviour, GCC takes more than ten minutes for the kernels.
SANITIZE := -fsanitize=address
WATCHED := cd $(SANITIZED)/lib && ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=../../../tests \
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ../../../.venv/bin/python -m
sanitize: .venv/installed-test
	CXXFLAGS="$(CXXFLAGS) $(SANITIZE) -O0 -fno-omit-frame-pointer" LDFLAGS="$(SANITIZE)" AEVB_CUDA=0 AEVB_CPU_ISA=baseline \
		.venv/bin/python setup.py -q build --build-base $(SANITIZED) --build-temp $(SANITIZED)/temp --build-lib $(SANITIZED)/lib
	$(WATCHED) pytest -q -p no:cacheprovider --rootdir ../../.. -c ../../../pyproject.toml ../../../tests/test_operators.py
	$(WATCHED) fuzz $(ARGS)
	$(MAKE) emulate ARGS="-m slow -k sanitizers"

mutants: .venv/installed-test
	PYTHONPATH=tests .venv/bin/python -m mutants $(ARGS)

# A copy of the package as well, whose objects are those of .venv but for the kernels' and what chooses them.
EMULATED := build/emulated
EMULATED_TESTS := emulation one_pass speculative_gradient values gradients layouts noise_keys bits extremes mixture categorical machinery machinery_autograd
emulate: .venv/installed-test
	AEVB_CUDA=emulated .venv/bin/python setup.py -q build --build-lib $(EMULATED)/lib
	cd $(EMULATED)/lib && OMP_NUM_THREADS=1 PYTHONPATH=../../.. ../../../.venv/bin/python -m $(PYTEST) -q -p no:cacheprovider -W ignore::RuntimeWarning \
		--rootdir ../../.. -c ../../../pyproject.toml -m "not slow" $(ARGS) $(EMULATED_TESTS:%=../../../tests/test_%.py) \
		../../../tests/test_linear_log_prob.py::test_a_spread_in_float32_beside_a_half

FORMULAS_TESTS := $(filter-out emulation one_pass speculative_gradient layouts,$(EMULATED_TESTS)) arguments autocast compat distributions elbo errors \
	half_gradients heads linear_log_prob machinery_autocast machinery_compile machinery_func machinery_processes tracing vmap
formulas: .venv/installed-test
	AEVB_LIBRARY=0 .venv/bin/python -m $(PYTEST) -q -W ignore::RuntimeWarning -m "not slow" $(ARGS) $(FORMULAS_TESTS:%=tests/test_%.py)

count: .venv/installed
	@.venv/bin/python -m benchmarks.instructions $(ARGS)

# The objects of the CUDA build, and the CPU's operators for what the kernels have to compute.
count-gpu: .venv/installed-count $(if $(wildcard $(CUDA_HOME)/bin/nvcc),.venv-cuda/installed)
	@CUDA_HOME=$(CUDA_HOME) .venv/bin/python -m benchmarks.gpu_instructions $(ARGS)

gpu gpu-test gpu-bench:
	@$(if $(AEVB_CUDA),AEVB_CUDA=$(AEVB_CUDA)) $(PYTHON) benchmarks/gpu_check.py $@

clean:
	rm -rf .venv .venv-cuda .venv-docs build dist *.egg-info aevb_ext/_C*.so

# What an environment was made from. The file changes only when the text does, and then the environment is made anew.
build/venv.from: WANTED = $(PYTHON) $(TORCH)
build/venv-cuda.from: WANTED = $(PYTHON) $(CUDA_TORCH)
build/venv.from build/venv-cuda.from: FORCE
	@mkdir -p build; echo '$(WANTED)' | cmp -s - $@ || echo '$(WANTED)' >$@

.venv/torch: build/venv.from
.venv-cuda/torch: build/venv-cuda.from
.venv/torch .venv-cuda/torch:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit(f"aevb_ext needs Python 3.10 or later; $(PYTHON) is {sys.version.split()[0]}: make PYTHON=...")'
	@echo 'Installing $(lastword $(shell cat $<)) into $(@D)'
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/pip install -q --disable-pip-version-check 'setuptools>=77,<82' ninja numpy '$(lastword $(shell cat $<))'
	@touch $@

.venv/built: .venv/torch $(SOURCES)
	@.venv/bin/python setup.py -q build_ext --inplace
	@touch $@

# The build is fresh already; pip installs what else is needed, and a link to this folder.
.venv/installed: WHAT = .[train]
.venv/installed-test: WHAT = .[test]
.venv/installed-lint: WHAT = .[lint]
.venv/installed-bench: WHAT = .[bench,conformance]
.venv/installed-conformance: WHAT = .[conformance]
.venv/installed-count: WHAT = .[count]
.venv/installed-wheel: WHAT = .[wheel]
INSTALLED := .venv/installed $(addprefix .venv/installed-,test lint bench conformance count wheel)
$(INSTALLED): pyproject.toml | .venv/built
	@.venv/bin/pip install -q --disable-pip-version-check --no-build-isolation -e '$(WHAT)'
	@touch $@

# What .ci/run needs, at once: each call of pip takes as long to see that most of it is there already.
.venv/installed-ci: pyproject.toml | .venv/built
	@.venv/bin/pip install -q --disable-pip-version-check --no-build-isolation -e '.[train,test,lint,conformance,count,wheel]'
	@touch $@ $(filter-out %-bench,$(INSTALLED))

# What pyproject.toml's extra "docs" names, and not the package itself, which needs torch.
.venv-docs/installed: pyproject.toml
	@$(PYTHON) -m venv --clear $(@D)
	@$(PYTHON) -c 'import sys, re, pathlib; text = pathlib.Path("pyproject.toml").read_text(); \
		print(*re.findall(r"\"([^\"]+)\"", re.search(r"^docs = \[(.*?)^\]", text, re.S | re.M)[1]), sep="\n")' >$(@D)/requirements.txt
	@$(@D)/bin/pip install -q --disable-pip-version-check -r $(@D)/requirements.txt
	@touch $@

.venv-cuda/installed: .venv-cuda/torch pyproject.toml $(SOURCES) $(MODULES)
	@rm -rf build/lib*
	@AEVB_CUDA=1 CUDA_HOME=$(CUDA_HOME) .venv-cuda/bin/python setup.py -q build_ext
	@AEVB_CUDA=1 CUDA_HOME=$(CUDA_HOME) .venv-cuda/bin/pip install -q --disable-pip-version-check --no-build-isolation '.[test]'
	@touch $@
