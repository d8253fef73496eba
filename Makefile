# Every target sets up what it needs: a virtual environment in $(VENV) and, as root with apt, Debian packages.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
WORKERS ?= 4
# Without bytecode files each of the several hundred commands that the tests run would compile mqttkit again.
unexport PYTHONDONTWRITEBYTECODE
SYSTEM_PACKAGES := sh tests/support/packages.sh

.DEFAULT_GOAL := help
.PHONY: help demo test run-tests test-fast mutation fuzz test-brokers test-mosquitto-clients check docs format bench bench-peers bench-wire bench-aio bench-decode bench-record bench-bridge bench-sparkplug dev-bridge soak-bridge soak-scan bench-controllers bench-top bench-web sid home-assistant pictures wheel clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-22s  %s\n", $$1, $$2}'

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "mqttkit needs Python 3.10 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(SYSTEM_PACKAGES) python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/pyvenv.cfg setup.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/pyvenv.cfg setup.cfg
	@$(SYSTEM_PACKAGES) $$(grep -v '^#' tests/support/packages.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## Replay real advertisements: scanner -> broker -> subscriber, counted
	@$(BIN)/mqttkit demo

test: ## Run every check and every test in parallel, and build the documentation; about seven minutes on two cores (WORKERS=4)
	@$(MAKE) --no-print-directory --jobs=2 check run-tests docs

run-tests: $(VENV)/.dev ## Run every test, without the checks
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --durations 10 $(PYTEST_ARGS)

test-fast: $(VENV)/.dev ## Run the unit tests only
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

check: $(VENV)/.dev ## Lint, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## Build the pages of docs/ into build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/docs

format: $(VENV)/.dev ## Format the code, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutation: $(VENV)/.mutation ## Change the pure modules, list the changes that no unit test notices (MUTATION_ARGS=--help)
	$(BIN)/python -m tests.support.mutation $(MUTATION_ARGS)

$(VENV)/.mutation: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutation]'
	@touch $@

fuzz: $(VENV)/.dev ## Feed 30,000 mutated packet streams per MQTT version to the client (about a minute)
	$(BIN)/python -m tests.support.fuzz $(FUZZ_ARGS)

test-brokers: $(VENV)/.dev ## Run mqttkit with other brokers and client libraries; writes docs/reference/interoperability.md (as root, about 20 minutes)
	@$(SYSTEM_PACKAGES) mosquitto redis-server debootstrap
	@command -v npm >/dev/null || $(SYSTEM_PACKAGES) nodejs npm || true
	$(BIN)/python -m tests.interoperability --directory $(VENV)/interoperability --write docs/reference/interoperability.md $(BROKER_ARGS)

test-mosquitto-clients: $(VENV)/.dev ## Run mosquitto's own tests of its clients against pub, sub and request (as root, about 8 minutes)
	@$(SYSTEM_PACKAGES) debootstrap microsocks
	$(BIN)/python -m tests.interoperability.mosquitto_clients --directory $(VENV)/interoperability $(CLIENT_TEST_ARGS)

bench: $(VENV)/.demo ## Measure the figures that mqttkit promises (about 6 minutes; needs a quiet machine)
	@$(SYSTEM_PACKAGES) mosquitto
	$(BIN)/python -m tests.benchmarks.suite
	$(BIN)/python -m tests.benchmarks.controllers

bench-peers: $(VENV)/.peers ## Compare with other MQTT clients; writes docs/explanation/performance.md (under 10 minutes)
	@$(SYSTEM_PACKAGES) mosquitto mosquitto-clients
	$(BIN)/python -m tests.benchmarks.peers --python $(VENV)/peers/bin/python --write docs/explanation/performance.md

bench-wire: $(VENV)/.demo ## Measure the client against bare TCP peers; writes docs/explanation/performance.md (about two minutes)
	@$(SYSTEM_PACKAGES) mosquitto-clients
	$(BIN)/python -m tests.benchmarks.wire --write docs/explanation/performance.md

bench-aio: $(VENV)/.peers ## Compare the asyncio client with aiomqtt (about a minute)
	@$(SYSTEM_PACKAGES) mosquitto mosquitto-clients
	$(BIN)/python -m tests.benchmarks.peers.asyncio_clients --python $(VENV)/peers/bin/python

soak-scan: $(VENV)/.dev ## Watch the memory of publish-scan for an hour, with a broker that restarts
	@$(SYSTEM_PACKAGES) mosquitto
	$(BIN)/python -m tests.support.soak_scan $(SOAK_ARGS)

bench-decode: $(VENV)/.dev ## Measure `mqttkit decode` at 10,000 advertisements per second (under a minute)
	@$(SYSTEM_PACKAGES) mosquitto
	$(BIN)/python -m tests.benchmarks.decoding

bench-record: $(VENV)/.dev ## Measure recordings, retained messages and the proxy (about three minutes)
	@$(SYSTEM_PACKAGES) mosquitto
	$(BIN)/python -m tests.benchmarks.recordings

$(VENV)/.peers: $(VENV)/.demo
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check 'paho-mqtt>=2.2,<2.3' aiomqtt gmqtt amqtt
	@touch $@

bench-controllers: $(VENV)/.demo ## Measure the controllers: signing, duplicates, reports, heartbeats (about a minute)
	$(BIN)/python -m tests.benchmarks.controllers

bench-bridge: $(VENV)/.dev ## Measure the bridge: throughput, latency, memory, catch-up (about 20 minutes)
	$(BIN)/python -m tests.benchmarks.bridge --write docs/explanation/performance.md $(BENCH_ARGS)

bench-sparkplug: $(VENV)/.dev ## Measure the CPU time of Sparkplug messages in the bridge (under a minute)
	$(BIN)/python -m tests.benchmarks.bridge.sparkplug

dev-bridge: $(VENV)/.demo ## Start a broker and a bridge together, for local work (DEV_ARGS=--help)
	@$(BIN)/mqttkit bridge dev $(DEV_ARGS)

soak-bridge: $(VENV)/.dev ## Kill bridge, broker and sink 20 times in a million metrics, for each sink; count (about half an hour)
	$(BIN)/python -m tests.support.soak $(SOAK_ARGS)

bench-top: $(VENV)/.dev ## Measure CPU and memory of `mqttkit top` with 10,000 busy topics (under a minute)
	$(BIN)/python -m tests.benchmarks.live_view

bench-web: $(VENV)/.dev ## Measure how many messages `mqttkit web` carries to a reader and to Chromium, and the loss (under a minute)
	$(BIN)/python -m tests.benchmarks.web_view
	$(BIN)/python -m tests.benchmarks.web_view --browser

sid: $(VENV)/.dev ## Install mosquitto 2.1 and Redis 8 from Debian sid beside the system (as root, about a minute) and run the tests that need it
	@$(SYSTEM_PACKAGES) debootstrap
	$(BIN)/python -m tests.support.sid
	$(BIN)/python -m pytest tests/system/broker/test_mosquitto_21.py tests/integration/bridge/test_redis_durability.py $(PYTEST_ARGS)

home-assistant: $(VENV)/.dev ## Check discovery messages with Home Assistant itself, in Debian sid (as root, ten minutes the first time)
	@$(SYSTEM_PACKAGES) debootstrap
	$(BIN)/python -m tests.support.home_assistant

pictures: $(VENV)/.dev ## Make the pictures of the documentation from the real commands, and the drawings
	@$(SYSTEM_PACKAGES) chromium chromium-driver graphviz mscgen mosquitto tmux
	$(BIN)/python -m tests.support.pictures

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
