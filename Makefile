# A newcomer needs only `make run` and `make test`; `make help` lists the other targets.
PYTHON ?= python3
PORT ?= 8080
WORKER_PORT ?= 8000
BIN := .venv/bin

# Without byte code, each process compiles the modules that it imports, and the tests take twice as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run check test test-browser test-foreign bench setup models lint fmt docs protos vendor lock audit images clean

help: ## prints this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## installs and starts worker and sidecar [MODEL=x.gguf PIPELINES=folder PORT= WORKER_PORT= WORKER_ARGS= SIDECAR_ARGS=]
	@exec $(PYTHON) -m scripts.run --model='$(MODEL)' --pipelines='$(PIPELINES)' --port='$(PORT)' --worker-port='$(WORKER_PORT)' \
	  --worker-args='$(WORKER_ARGS)' --sidecar-args='$(SIDECAR_ARGS)'

check: setup ## runs lint and the pure and wire tests that are not marked slow, in about three minutes
	@$(BIN)/python -m scripts.fetch chat-templates
	@$(MAKE) --no-print-directory --jobs=3 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint check-pure check-sidecar check-wire

QUICK_TESTS := $(BIN)/python -m pytest -p tests.no_skips --quiet -m 'not slow' --hypothesis-profile=few \
  --durations=10 --durations-min=1

check-pure:
	@$(QUICK_TESTS) tests/test_layers.py tests/anyserve_common tests/anyserve_worker tests/openai_server tests/protos

SIDECAR_TESTS := $(wildcard tests/wire/test_sidecar_*.py)

check-sidecar:
	@$(QUICK_TESTS) $(SIDECAR_TESTS)

check-wire:
	@$(QUICK_TESTS) $(filter-out $(SIDECAR_TESTS),$(wildcard tests/wire/test_*.py))

# Each file runs in one of two processes: most tests wait for programs that they start.
test: setup models lint ## installs what is needed and runs every check and test [PYTEST_ARGS="-k name"]
	@exec $(BIN)/python -m pytest -p tests.no_skips --numprocesses=2 --dist=loadfile $(PYTEST_ARGS)

test-browser: setup ## tests the reference page in a headless Chromium, which must be installed [CHROMIUM=/usr/bin/chromium PYTEST_ARGS=]
	@exec $(BIN)/python -m pytest -p tests.no_skips $(PYTEST_ARGS) tests/browser

test-foreign: setup ## runs Triton, MLServer, KServe and Dynamo with scripted models behind a sidecar [PYTEST_ARGS="-k vllm"]
	@$(BIN)/python -m tests.foreign.setup
	@exec $(BIN)/python -m pytest -p tests.no_skips $(PYTEST_ARGS) tests/foreign

bench: setup ## measures the system and its peers, into benchmarks/results [BENCH_ARGS="serving --quick"]
	@exec $(BIN)/python -m benchmarks $(BENCH_ARGS)

setup: ## creates .venv with all packages [CMAKE_ARGS=-DGGML_CUDA=on for another build of llama.cpp]
	@exec $(PYTHON) -m scripts.setup dev

models: setup ## fetches what tests need besides packages: three small models, the old openai client, chat templates, KServe's types, hayhooks' examples
	@exec $(BIN)/python -m scripts.fetch smollm2 gemma3 minilm openai-0.28 chat-templates kserve-types keda-types prometheus-types hayhooks

lint: setup ## checks code (ruff, mypy), plain English, and that the generated stubs and tables are up to date
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

vendor: setup ## fetches the files of Swagger UI for /docs, with npm
	@$(BIN)/python -m scripts.vendor

lock: setup ## writes requirements/, the locked packages, from pyproject.toml [LOCK_ARGS=--upgrade for the newest versions]
	@$(BIN)/python -m scripts.lock $(LOCK_ARGS)

# diskcache unpickles files in its directory (CVE-2025-69872, not fixed in any release). llama-cpp-python requires it for
# its LlamaDiskCache, which this project never creates, so that there is no directory.
IGNORED_CVES := CVE-2025-69872

audit: setup ## lists known vulnerabilities of the locked packages, from PyPI's database, which mirrors don't have
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  $(patsubst %,--ignore-vuln %,$(IGNORED_CVES)) $(patsubst %,-r %,$(wildcard requirements/*.txt))

images: setup ## builds the images but CUDA's without Docker, and runs the pair from them, as root [IMAGES_ARGS=--quick]
	@exec $(BIN)/python -m tests.packaging.images $(IMAGES_ARGS)

clean: ## removes everything that make created here; downloaded models stay in the user's cache
	@rm -rf .venv .models .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
