# make demo, make test: everything a new user needs. Both install into .venv from requirements.lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes that share the test files.
WORKERS ?= 2

.PHONY: install demo test lint bench clean

install: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/cohort-engine demo --out demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/storage
	$(BIN)/python -m pytest tests/storage  # starts, kills and times processes: by itself

bench: $(READY)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -o filterwarnings=default

clean:
	rm -rf $(VENV) demo build dist
