# Everything a newcomer needs.  `make demo` and `make test` set themselves up.
#
#   VENV=path   where the environment goes          TORCH=torch   which torch to install
#   ARGS=...    for the demo, such as ARGS="--seed 1 --out runs/demo-1"
#
# TORCH is pinned so that everybody tests the same.  On Linux the registry's torch brings CUDA libraries, 3 GB; where
# pip is configured with a CPU build, that one is taken.  On a machine with a GPU use `make setup TORCH=torch`.

VENV ?= .venv
TORCH ?= torch==2.13.0
EXTRAS ?= notebook,test
PYTHON ?= python3

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
# One thread per process: the tiny model is small, and two busy processes with two threads each are ten times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo lab test test-unit test-notebooks lint docs clean

help:
	@echo "make demo   train the tiny policy and write runs/demo/report.html (4 minutes)"
	@echo "make lab    open the notebooks in JupyterLab"
	@echo "make test   run all tests and every notebook"
	@echo "make browser  six notebooks in JupyterLab and headless Chromium: buttons and sliders must answer"
	@echo "make docs   build the site into docs/_site/html"
	@echo "make setup  only make the environment in $(VENV)"

setup: $(STAMP)

# uv where there is one (it ignores pip's settings, so they are handed over), else pip.
$(STAMP): pyproject.toml
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		UV_FIND_LINKS="$$PIP_FIND_LINKS" uv pip install --quiet --python $(BIN)/python "$(TORCH)" -e ".[$(EXTRAS)]"; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[$(EXTRAS)]"; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/minirft demo $(ARGS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/00_tour.ipynb

test: lint test-unit test-notebooks

test-unit: $(STAMP)
	$(BIN)/python -m pytest -p no:nbval -p no:anyio -n 2

# A notebook is one worker's work, from its first cell to its last: --dist loadfile.
test-notebooks: $(STAMP)
	PYTHONWARNINGS=error $(BIN)/python -m pytest -p no:anyio -n 2 --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=240 notebooks

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Real JupyterLab in headless Chromium (Debian: chromium, chromium-driver): widgets that answer.
.PHONY: browser
browser:
	@$(MAKE) --no-print-directory setup STAMP=$(VENV)/.installed-browser EXTRAS=notebook,test,browser
	$(BIN)/python -m pytest -p no:nbval -p no:anyio -m browser tests/test_browser.py

docs: setup-docs
	$(BIN)/sphinx-build --quiet -W -d docs/_site/doctrees -c docs . docs/_site/html
	$(BIN)/python -W error::UserWarning:pdoc.doc_types -W error::RuntimeWarning:pdoc.extract -m pdoc --output-directory docs/_site/html/api minirft
	@echo "docs/_site/html/index.html"

.PHONY: setup-docs
setup-docs:
	@$(MAKE) --no-print-directory setup STAMP=$(VENV)/.installed-docs EXTRAS=notebook,test,docs

clean:
	rm -rf $(VENV) runs
