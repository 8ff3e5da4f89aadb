# `make demo` and `make test` set up all they need in .venv; PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORK ?= build/pocket
RELIABILITY ?= build/reliability
# Threads that wait sleep, as in every command: see docs/performance.md. .ci/run has it from here.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check format lint layers types docs pythons pocket fuzz torture clean

demo: $(VENV)/.demo-ready
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh $(DEMO)

# Two files at a time, each with a core of its own: half the time of one after the other. What measures time runs alone.
# The order is that of tests/conftest.py; by itself pytest-xdist begins files of few tests last, however long they take.
test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -m alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"

check: format lint layers types test

format: $(VENV)/.test-ready
	$(BIN)/ruff format --check .

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .

layers: $(VENV)/.test-ready
	$(BIN)/lint-imports

types: $(VENV)/.test-ready
	$(BIN)/mypy

# The site in build/site, from docs/ and the docstrings; docs/cli.md first, from the help of the commands.
docs: $(VENV)/.docs-ready
	$(BIN)/python scripts/cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tests on every Python that pyproject.toml names, each in an environment of its own.
pythons:
	for version in 3.11 3.12 3.13; do $(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; done

# Everything from nothing; run it again to train the same model further. See training/pocket/README.md.
pocket: $(VENV)/.test-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	$(BIN)/python -m training.pocket --work $(WORK) --out conestool/pocket --processes 2

# Long campaigns, kept in $(RELIABILITY) and gone on with if run again; the figures stand in docs/reliability.md.
fuzz: $(VENV)/.test-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	mkdir -p $(RELIABILITY)
	$(BIN)/python -m benchmarks.reliability.bombs
	$(BIN)/python -m benchmarks.reliability.text --count 800 --seed 1
	$(BIN)/python -m benchmarks.reliability.coverage --seconds 300 --folder $(RELIABILITY)/coverage
	$(BIN)/python -m benchmarks.reliability.fuzz --count 1000000 --processes 2 --out $(RELIABILITY)/fuzz.json

torture: $(VENV)/.test-ready
	mkdir -p $(RELIABILITY)
	$(BIN)/python -m benchmarks.reliability.photos --large
	$(BIN)/python -m benchmarks.reliability.cycles --count 1000 --lora
	$(BIN)/python -m benchmarks.reliability.torture --kills 200 --seed 0 --out $(RELIABILITY)/torture.json

$(VENV)/.demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test-ready: $(VENV)/.demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs-ready: $(VENV)/.demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-* $(DEMO) build dist
