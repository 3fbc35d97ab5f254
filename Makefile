# Everything a newcomer needs.  `make demo` and `make test` set themselves up.
#
#   VENV=path        where the environment goes
#   TORCH=torch      another torch, such as torch==2.13.0; without it the tested version, in the build that pip finds
#   CONSTRAINTS=     the newest of everything else; without it the versions that were tested together, constraints.txt
#   ARGS=...         for the demo, such as ARGS="--seed 1 --out runs/demo-1"
#
# On Linux the registry's torch brings CUDA libraries, 3 GB; where pip is configured with a CPU build, that one is taken.

VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TORCH ?= $(shell grep '^torch==' constraints.txt)
EXTRAS ?= notebook,test
PYTHON ?= python3

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
# One thread per process: the tiny model is small, and two busy processes with two threads each are ten times slower.
export OMP_NUM_THREADS ?= 1

PYTEST := $(BIN)/python -m pytest -p no:anyio
UNIT := $(PYTEST) -p no:nbval
# All that is nbval's.  A notebook is one worker's work, from its first cell to its last: --dist loadfile.
NBVAL := $(PYTEST) -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=600
# A warning of our own code is an error everywhere (pyproject.toml); on the tested versions everybody's is.
STRICT := $(if $(CONSTRAINTS),-W error)
# What other versions and other processors could break.
CORE := $(patsubst %,tests/%.py,engine/test_versions engine/test_prefix engine/test_decoding test_sampler \
	test_policy engine/test_layers test_loss test_train runs/test_resume runs/test_checkpoints cost/test_ledger \
	runs/test_real_path rewards/test_rewards engine/test_memory_options engine/test_sixteen_bits)
NUMBERS := $(patsubst %,tests/%.py,engine/test_prefix engine/test_decoding test_sampler engine/test_layers \
	test_reference engine/test_memory_options engine/test_sixteen_bits)

.PHONY: help setup demo lab test test-unit test-notebooks test-wheel test-oldest test-newest test-cpus lock lint docs clean

help:
	@echo "make demo   train the tiny policy and write runs/demo/report.html (4 minutes)"
	@echo "make lab    open the notebooks in JupyterLab"
	@echo "make test   run all tests and every notebook"
	@echo "make test-wheel  build the package, install it without the repository, run its demo from there"
	@echo "make test-oldest, test-newest  the core tests with the lowest versions that are admitted, with the newest"
	@echo "make test-cpus  the tests of numbers on other instruction sets and numbers of threads (5 minutes)"
	@echo "make lock   the newest of everything, all tests, then constraints.txt"
	@echo "make browser  six notebooks in JupyterLab and headless Chromium: buttons and sliders must answer"
	@echo "make docs   build the site into docs/_site/html"
	@echo "make setup  only make the environment in $(VENV)"

setup: $(STAMP)

# uv where there is one (it ignores pip's settings, so they are handed over), else pip.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		UV_FIND_LINKS="$$PIP_FIND_LINKS" uv pip install --quiet --python $(BIN)/python $(CONSTRAINTS:%=-c %) "$(TORCH)" -e ".[$(EXTRAS)]"; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet $(CONSTRAINTS:%=-c %) "$(TORCH)" -e ".[$(EXTRAS)]"; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/minirft demo $(ARGS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/00_tour.ipynb

test: lint test-unit test-notebooks

test-unit: $(STAMP)
	$(UNIT) $(STRICT) -n 2

test-notebooks: $(STAMP)
	$(if $(CONSTRAINTS),PYTHONWARNINGS=error) $(NBVAL) $(STRICT) notebooks

test-wheel: $(STAMP)
	$(UNIT) $(STRICT) -m wheel tests/test_wheel.py

# The lowest version of every direct dependency that pyproject.toml admits; pins.txt serves as the constraints.
OLDEST := .venv-oldest
test-oldest: $(OLDEST)/pins.txt
	@$(MAKE) --no-print-directory setup VENV=$(OLDEST) CONSTRAINTS=$< TORCH="$$(grep '^torch==' $<)"
	@$(MAKE) --no-print-directory test-core VENV=$(OLDEST) CONSTRAINTS=$<

$(OLDEST)/pins.txt: pyproject.toml tests/pins.py
	@mkdir -p $(@D) && $(PYTHON) tests/pins.py lowest > $@

NEWEST := .venv-newest
test-newest:
	@rm -rf $(NEWEST)
	@$(MAKE) --no-print-directory test-core VENV=$(NEWEST) CONSTRAINTS=

.PHONY: test-core
test-core: $(STAMP)
	@$(BIN)/python tests/pins.py installed | grep -E '^(torch|transformers|peft|bitsandbytes|numpy)==' | xargs
	$(UNIT) -n 2 $(CORE)

# Vectors of torch, vectors of oneDNN, threads: every pair of levels is met at least once.
test-cpus: $(STAMP)
	@for levels in "default AVX2 1" "default ALL 2" "avx2 AVX2 2" "avx2 ALL 1" "avx512 AVX2 1" "avx512 ALL 2"; do \
		set -- $$levels; echo "ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$3"; \
		ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$3 OMP_WAIT_POLICY=passive \
			$(UNIT) $(STRICT) -n $$((4 - 2 * $$3)) $(NUMBERS) || exit 1; \
	done

lock:
	@rm -rf $(NEWEST)
	@$(MAKE) --no-print-directory test docs browser VENV=$(NEWEST) CONSTRAINTS= EXTRAS=notebook,test,docs,browser
	$(NEWEST)/bin/python tests/pins.py installed > constraints.txt

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Real JupyterLab in headless Chromium (Debian: chromium, chromium-driver): widgets that answer.
.PHONY: browser
browser:
	@$(MAKE) --no-print-directory setup STAMP=$(VENV)/.installed-browser EXTRAS=notebook,test,browser
	$(UNIT) $(STRICT) -m browser tests/test_browser.py tests/test_report_page.py

docs: setup-docs
	$(BIN)/sphinx-build --quiet -W -d docs/_site/doctrees -c docs . docs/_site/html
	$(BIN)/python -W error::UserWarning:pdoc.doc_types -W error::RuntimeWarning:pdoc.extract docs/api_pages.py docs/_site/html/api
	@echo "docs/_site/html/index.html"

.PHONY: setup-docs
setup-docs:
	@$(MAKE) --no-print-directory setup STAMP=$(VENV)/.installed-docs EXTRAS=notebook,test,docs

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) runs
