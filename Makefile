# The only door: each target sets up what it needs, from a fresh clone.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# MLflow's server wants other versions than this project: it has a place of its own.
MLFLOW := .venv-mlflow
# So does what looks at the packages: it is none of them.
AUDIT := .venv-audit
# A test per core at a time, but no more than memory has room for.
PYTEST := $(BIN)/pytest --quiet --numprocesses auto --maxprocesses 4 --dist worksteal
# Tests keep their files in memory where it has room: half of their commits wait for a disk.
ROOMY := $(shell df --output=avail /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 8000000 { print "/dev/shm" }')
export PYTEST_DEBUG_TEMPROOT := $(or $(ROOMY),$(or $(TMPDIR),/tmp))
# Where Dagster keeps its runs: beside dagster.yaml, so that the UI shows the demo's.
export DAGSTER_HOME := $(CURDIR)

# What a target needs that pip does not bring is asked for before anything is made.
PACKAGE_java := openjdk-17-jre-headless
PACKAGE_initdb := postgresql
PACKAGE = $(or $(PACKAGE_$*),$*)
# Debian keeps the server's own commands out of the PATH.
export PATH := $(PATH)$(addprefix :,$(lastword $(wildcard /usr/lib/postgresql/*/bin)))

need-%:
	@command -v $* >/dev/null || { \
		echo "make $(MAKECMDGOALS) needs $*, which is not here: apt-get install $(PACKAGE)"; exit 1; }

# Rows of the small model in the benchmark, of its histories and texts, of the models of
# other frameworks, and of the stores; and the environments of its columns.
BENCH_ROWS ?= 4000000
SEQUENCE_ROWS ?= 65536
TEXT_ROWS ?= 2048
FRAMEWORK_ROWS ?= 1048576
SERVING_ROWS ?= 1000000
BENCH := .venv-bench
DAFT := .venv-daft

.PHONY: help demo demo-baskets audit fuzz sbom docs reference test test-fast test-slow test-crash test-engines test-dagster test-ui screenshots package package-servers test-cuda bench-cuda check gates ui bench bench-frameworks bench-scale bench-serving \
	bench-online soak fmt clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batch-assets needs Python 3.11 or newer, got $$($(PYTHON) --version)."; \
		  echo "Name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) can't make an environment: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## score a week of real nights, and look one flight up
	@$(BIN)/batch-assets demo

demo-baskets: $(READY) ## train a recommender in minutes, score a week, and look one household up
	@$(BIN)/batch-assets demo baskets

test: test-fast test-slow ## the whole test suite, the fast part first

test-fast: need-g++ need-redis-server need-initdb $(READY) ## the fast part alone
	$(PYTEST) -m "not slow and not crash and not engines and not ui"

# They mostly wait, for servers and for processes to start: one more at a time.
test-slow: need-g++ need-redis-server need-initdb $(READY) $(MLFLOW)/.ready ## the rest of it
	$(PYTEST) --numprocesses 3 -m "slow and not crash and not engines and not ui"

$(MLFLOW)/.ready: batch_assets_tests/mlflow-server.txt
	$(PYTHON) -m venv $(MLFLOW)
	$(MLFLOW)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# What was killed already lies in .kills: ended by its hour, it goes on from there.
KILLS ?= 1000
KILL_MINUTES ?= 60
test-crash: need-java $(VENV)/.engines ## kill a thousand nights in an hour at most, and lie to others
	$(BIN)/python -m batch_assets_tests.kills --kills $(KILLS) --minutes $(KILL_MINUTES)
	$(BIN)/pytest -m crash --quiet

$(VENV)/.engines: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,ray,spark]'
	@touch $@

$(VENV)/.ready-ui: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,browser]'
	@touch $@

test-ui: need-chromium $(VENV)/.ready-ui ## the UI in a real browser, from the graph to a shut gate
	$(BIN)/pytest -m ui --quiet batch_assets_tests/ui

screenshots: need-chromium $(VENV)/.ready-ui ## the same, and keep the pictures of the docs
	BATCH_ASSETS_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/pytest -m ui --quiet batch_assets_tests/ui

# What lies over the packages of .venv, so that nothing else is installed twice.
DAGSTERS := .dagster
DAGSTER_oldest := ==1.13.0
DAGSTER_newest := >=1.13,<1.14
DAGSTER_PACKAGES := dagster dagster-shared dagster-pipes dagster-graphql
NIGHTS := batch_assets_tests/assets/test_nights.py batch_assets_tests/assets/test_catalog.py \
	batch_assets_tests/sensors/test_deadlines.py

.PRECIOUS: $(DAGSTERS)/%/.ready
$(DAGSTERS)/%/.ready: $(READY)
	rm -rf $(@D)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(@D) \
		$(foreach package,$(DAGSTER_PACKAGES),'$(package)$(DAGSTER_$*)')
	@touch $@

test-dagster: test-dagster-oldest test-dagster-newest ## nights on both ends of Dagster's range

test-dagster-%: $(DAGSTERS)/%/.ready
	@PYTHONPATH=$(CURDIR)/$(<D) $(BIN)/python -c 'import dagster; print("dagster", dagster.__version__)'
	PYTHONPATH=$(CURDIR)/$(<D) $(PYTEST) -m "not slow" $(NIGHTS)

# They mostly wait, for engines to start and to see who died: two files at a time take
# 0.72 of the time. A file keeps its Ray to itself.
test-engines: need-java $(VENV)/.engines ## the same nights on a real Ray and a real Spark
	$(BIN)/pytest -m engines --quiet --numprocesses 2 --dist loadfile

package: $(READY) ## build wheel and sdist; in an empty environment, from pip install to every how-to
	batch_assets_tests/first_night.sh $(CURDIR)/$(BIN)/python $(CURDIR)/build/package

build/package/dist: ; @$(MAKE) --no-print-directory package

package-servers: need-java need-initdb $(READY) build/package/dist ## type the how-tos of Ray, Spark, S3 and PostgreSQL with that wheel
	$(BIN)/python -m batch_assets_tests.how_to_servers build/package

$(VENV)/.ready-docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

docs: $(VENV)/.ready-docs ## the documentation as a site, in which every link leads somewhere
	$(BIN)/python -m website stage build/docs
	$(BIN)/zensical build --strict --clean --config-file zensical.toml
	@echo "open build/site/index.html, or: $(BIN)/python -m http.server --directory build/site"

reference: $(READY) ## write the pages of the docs that are made from the code
	$(BIN)/python -m website reference
	$(BIN)/python -m batch_assets.cli.schemas > docs/json.md

check: $(READY) ## format, lint, types, import contracts, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/dg check toml
	$(BIN)/dg check defs

$(AUDIT)/.ready: .ci/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

sbom: $(READY) $(AUDIT)/.ready ## list every package of the environment, and hold it against what is pinned
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file build/sbom.json $(BIN)/python
	$(BIN)/python .ci/check_sbom.py build/sbom.json constraints.txt

# What was not looked at counts as a weakness: `--strict`.
audit: $(AUDIT)/.ready ## ask for known weaknesses of what is pinned; needs the feed on the network
	@$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
		--requirement constraints.txt || { \
		echo "make audit: a pinned package has a known weakness, or the feed of weaknesses"; \
		echo "could not be asked about one. The last line above says which. Nothing is"; \
		echo "known to be safe: move the package, or run this where the feed is reached."; exit 1; }

FUZZ_SECONDS ?= 3600
FUZZ_EXAMPLES ?= 5000

# Other examples in each round; it ends with the first that is a finding.
fuzz: $(READY) ## look for an hour for bytes that end in no error of ours
	@end=$$(($$(date +%s) + $(FUZZ_SECONDS))); \
	while [ $$(date +%s) -lt $$end ]; do \
		FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest --quiet -p no:cacheprovider --timeout 0 \
			batch_assets_tests/security/test_fuzz.py || exit 1; \
	done

gates: $(READY) ## how often the gates of drift catch a fault, and stop an ordinary night
	@$(BIN)/python -m benchmarks.gates

ui: $(READY) ## the Dagster UI on the same data, at http://localhost:3000
	$(BIN)/dg dev

$(BENCH)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[bench]'
	@touch $@

$(DAFT)/.ready: benchmarks/daft.txt
	$(PYTHON) -m venv $(DAFT)
	$(DAFT)/bin/pip install --quiet --disable-pip-version-check \
		--requirement benchmarks/daft.txt
	@touch $@

bench: need-java need-g++ ## measure against the floor and the peers
	@$(MAKE) --no-print-directory --jobs 2 $(BENCH)/.ready $(DAFT)/.ready
	@$(BENCH)/bin/python -m benchmarks.run --rows $(BENCH_ROWS) --daft $(DAFT)/bin/python
	@$(BENCH)/bin/python -m benchmarks.sequences --rows $(SEQUENCE_ROWS)
	@$(BENCH)/bin/python -m benchmarks.texts --rows $(TEXT_ROWS)

bench-frameworks: $(BENCH)/.ready ## measure models of other frameworks against a plain loop
	@$(BENCH)/bin/python -m benchmarks.frameworks --rows $(FRAMEWORK_ROWS)

# An environment that is there already may be named: CUDA_PYTHON=python3
CUDA_PYTHON ?= $(BIN)/python
CUDA_ROWS ?= 8000000
CUDA_READY := $(if $(filter $(BIN)/python,$(CUDA_PYTHON)),$(READY))

test-cuda: $(CUDA_READY) ## the tests that need a CUDA device
	$(CUDA_PYTHON) -m pytest --quiet -m cuda batch_assets_tests/scoring/test_cuda.py

bench-cuda: $(CUDA_READY) ## what a CUDA device could do, and what a night makes of it
	@$(CUDA_PYTHON) -m benchmarks.cuda --rows $(CUDA_ROWS)

SOAK_SECONDS ?= 3600
SOAK_RATE ?= 2000

soak: need-redis-server $(READY) ## the service for an hour at a rate, with trouble beside it
	$(BIN)/python -m batch_assets_tests.soak.run --seconds $(SOAK_SECONDS) --rate $(SOAK_RATE)

bench-online: need-wrk $(BENCH)/.ready ## measure the HTTP service under load; needs wrk
	@$(BENCH)/bin/python -m benchmarks.online

$(VENV)/.ready-serving: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[bench-serving]'
	@touch $@

bench-scale: $(READY) ## what a chunk, a shard and a past night cost the one driver of a night
	@$(BIN)/python -m benchmarks.scale

bench-serving: need-redis-server $(VENV)/.ready-serving ## look keys up in this project's snapshot and in four other stores
	@$(BIN)/python -m benchmarks.serving --rows $(SERVING_ROWS)

fmt: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the nights and Dagster left; the set-up stays
	rm -rf data/lake data/models data/snapshots data/compiled data/sweeps data/reports history logs schedules storage .nux \
		.telemetry .logs_queue .tmp_dagster_home_*
