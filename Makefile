# Each target sets itself up on a machine that has only Python 3.11 or newer.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: run test bench figures lint clean
run: .venv/installed
	$(BIN)/gradient-horizon run +sweeps=main $(ARGS)
	$(BIN)/gradient-horizon run +sweeps=main_training $(ARGS)

test: .venv/installed-dev
	@echo "Running the tests, on all cores: twenty minutes on two fast ones, an hour on slow ones."
	$(BIN)/python -m pytest $(ARGS)

bench: .venv/installed-bench
	$(BIN)/python benchmarks $(ARGS)

figures: .venv/installed
	$(BIN)/gradient-horizon figures $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing gradient-horizon and what it needs into .venv (once; a minute or two, longer where downloads are slow)."
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[data]'
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing gradient-horizon and what it needs into .venv (once; a minute or two, longer where downloads are slow)."
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/installed

.venv/installed-bench: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing gradient-horizon and what it needs into .venv (once; a minute or two, longer where downloads are slow)."
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@ .venv/installed-dev .venv/installed

clean:
	rm -rf .venv
