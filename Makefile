# flopwatch: each target does its own set-up from a clean clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup setup-dev demo test check bench docs notebooks clean

# The `flopwatch` command in .venv.
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What the tests need on top: checkers, browsers' driver, and the libraries that flopwatch is compared with.
setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs,hf,lightning,peers,plots]'
	touch $@

# The main job on real models: FLOPs, largest batch, speed and MFU of the four GPTs on this machine, one HTML page.
demo: setup
	mkdir -p $(DEMO)
	$(BIN)/flopwatch report gpt-small gpt-medium gpt-large gpt-xl --limit 3500MiB \
	  --store $(DEMO)/demo.db --html $(DEMO)/report.html --output $(DEMO)/report.json

# Everything: what `make check` does, then all tests.
test: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

# Format, lint, types and the fast tests, in under two minutes.
check: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m "not slow and not browser"

# Ratios against the peers, measured in one run; docs/benchmarks.md holds the last table.
bench: setup-dev
	$(BIN)/python -m benchmarks

# The site, in site/: pages of the commands made anew, every link checked.
docs: setup-dev
	$(BIN)/python scripts/make_command_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html (its search needs a server: python3 -m http.server --directory site)"

# Both notebooks, run on this machine: their outputs are what a reader sees first, so run it on a quiet one.
notebooks: setup-dev
	$(BIN)/python scripts/make_notebooks.py

clean:
	rm -rf $(VENV) $(DEMO) build dist site *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
