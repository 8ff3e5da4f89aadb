# `make demo` and `make test` set up all they need in .venv; PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test check format lint types docs clean

demo: $(VENV)/.demo-ready
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh $(DEMO)

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest

check: format lint types test

format: $(VENV)/.test-ready
	$(BIN)/ruff format --check .

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .

types: $(VENV)/.test-ready
	$(BIN)/mypy

$(VENV)/.demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test-ready: $(VENV)/.demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
