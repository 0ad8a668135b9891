# make demo, make test: everything a new user needs. Both install into .venv from requirements.lock first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes that share the test files.
WORKERS ?= 2
# Tests that want the machine, or a cluster, to themselves.
APART := tests/storage tests/clusters tests/slurm tests/faults tests/browser
# Quick tests of arithmetic: they must hold on processors whose libraries round the last bit in another way.
NUMERIC := $(addprefix tests/unit/,analysis/test_groups.py analysis/test_arrays.py analysis/test_covariates.py analysis/test_correlate.py \
	analysis/test_harmonise.py analysis/test_norms.py analysis/test_agreement.py qmri cord/test_centreline.py cord/test_curve.py cord/test_levels.py \
	cord/test_windows.py reduce template/test_atlas.py template/test_base.py template/test_parametric.py nn/test_infer.py mapping/test_shape.py \
	mapping/test_straighten.py) $(addprefix cohort_engine/,analysis mapping qmri cord reduce template)

.PHONY: install demo docs stranger test test-all test-browser test-clusters test-processors lint audit bench clean

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
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile --durations 20 $(APART:%=--ignore %)
	$(BIN)/python -m pytest tests/storage  # starts, kills and times processes: by itself

docs: $(READY)  # the pages, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

test-browser: $(READY)  # pages in a real Chromium, where the system has one
	$(BIN)/python -m pytest tests/browser

test-all: test docs test-clusters test-browser test-processors
	$(BIN)/python -m pytest -m slow --numprocesses $(WORKERS) --dist loadfile tests/real tests/distributed tests/cli

test-clusters: $(READY)  # builds on SLURM, which is installed first, by ssh, and on a scheduler of one's own
	@deploy/slurm/up.sh || [ $$? = 3 ] || { echo "SLURM did not start"; exit 1; }
	$(BIN)/python -m pytest tests/clusters tests/slurm tests/faults

test-processors: $(READY)  # with the kernels of older processors
	$(BIN)/python .ci/processors.py haswell nehalem -- $(NUMERIC)

stranger:  # the README, word for word, in a new clone and a clean shell
	PYTHON=$(PYTHON) .ci/stranger.sh

audit: $(READY)  # needs the network
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock

bench: $(READY)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -o filterwarnings=default

clean:
	rm -rf $(VENV) demo build dist
