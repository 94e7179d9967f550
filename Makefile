# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
PORT ?= 8080
WORKER_PORT ?= 8000
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-browser bench setup models lint fmt docs protos vendor lock audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## worker and sidecar, set up from nothing [MODEL=x.gguf PORT= WORKER_PORT= WORKER_ARGS= SIDECAR_ARGS=]
	@exec $(PYTHON) -m scripts.run --model='$(MODEL)' --port='$(PORT)' --worker-port='$(WORKER_PORT)' \
	  --worker-args='$(WORKER_ARGS)' --sidecar-args='$(SIDECAR_ARGS)'

test: setup models lint ## everything that is checked, set up from nothing [PYTEST_ARGS="-k name"]
	@exec $(BIN)/python -m pytest -p tests.no_skips $(PYTEST_ARGS)

test-browser: setup ## the reference page in a headless Chromium, which has to be installed [CHROMIUM=/usr/bin/chromium PYTEST_ARGS=]
	@exec $(BIN)/python -m pytest -p tests.no_skips $(PYTEST_ARGS) tests/browser

bench: ## side by side with its peers, into benchmarks/results [BENCH_ARGS="serving --quick"]
	@$(PYTHON) -m scripts.setup worker bench
	@exec $(BIN)/python -m benchmarks $(BENCH_ARGS)

setup: ## .venv with everything in it [CMAKE_ARGS=-DGGML_CUDA=on for a llama.cpp of your own]
	@exec $(PYTHON) -m scripts.setup worker test

models: setup ## what the tests need besides packages: three small models, the old openai client, chat templates, KServe's types
	@exec $(BIN)/python -m scripts.fetch smollm2 gemma3 minilm openai-0.28 chat-templates kserve-types prometheus-types

lint: setup ## ruff, mypy, plain English, and whether the generated stubs and tables are up to date
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@PYTHON=$(BIN)/python scripts/gen_protos.sh --check
	@$(BIN)/python -m scripts.readme --check
	@$(BIN)/python -m scripts.plain_english

fmt: setup ## formats the Python files
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format

docs: setup ## fills the tables of docs/ from the code
	@$(BIN)/python -m scripts.readme

protos: setup ## regenerates the stubs from the .proto
	@PYTHON=$(BIN)/python scripts/gen_protos.sh

vendor: setup ## fetches the files of Swagger UI that /docs is made of, with npm
	@$(BIN)/python -m scripts.vendor

lock: ## requirements/, what the images install, from pyproject.toml [LOCK_ARGS=--upgrade for the newest of everything]
	@$(PYTHON) -m scripts.setup lock
	@$(BIN)/python -m scripts.lock $(LOCK_ARGS)

# diskcache unpickles what is in its directory (CVE-2025-69872, not fixed in any release). It comes with llama-cpp-python for
# its LlamaDiskCache, which nothing here makes: there is no such directory.
EXPLAINED := CVE-2025-69872

audit: ## known vulnerabilities of what the images install; asks PyPI's database, which a mirror doesn't have
	@$(PYTHON) -m scripts.setup lock
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  $(patsubst %,--ignore-vuln %,$(EXPLAINED)) $(patsubst %,-r %,$(wildcard requirements/*.txt))

clean: ## removes what was set up or built here; downloaded models stay in the user's cache
	@rm -rf .venv .models .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
