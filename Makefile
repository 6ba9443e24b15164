# The commands of the README. Everything runs in the virtual environment .venv, which any of them makes first: with what
# the demo and datasets of one's own need. What the tests and the checks need comes into it with the first of those.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := orchestration,gcs,s3,openvino,serve,heif,jxl,umap,demo
ALL_EXTRAS := $(EXTRAS),dagster-gcp,dagster-aws,postgres,kubernetes,celery,timm,open-clip,ray,beam,test,lint
INSTALL := $(PIP) --no-compile --constraint constraints.txt --no-build-isolation --editable
INSTALLED := $(VENV)/.installed
ALL_INSTALLED := $(VENV)/.all-installed
export DAGSTER_HOME := $(CURDIR)/.dagster
# Packages are compiled when they are first imported, and the result has to be kept.
unexport PYTHONDONTWRITEBYTECODE
DEMO := orchestration/defs/demo/defs.yaml

.DEFAULT_GOAL := help
.PHONY: help demo ui servers peers test slow test-all lint format constraints clean

help: ## these commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PIP) --constraint constraints.txt hatchling editables
	$(INSTALL) '.[$(EXTRAS)]'
	@touch $@

$(ALL_INSTALLED): $(INSTALLED)
	$(INSTALL) '.[$(ALL_EXTRAS)]'
	@touch $@

demo: $(INSTALLED) ## install, then run the whole chain on real photographs
	@$(BIN)/shardmill demo-photographs data/demo/raw
	@$(BIN)/python -m orchestration.materialize $(DEMO)

ui: $(INSTALLED) ## open the Dagster UI on what the demo made, at http://127.0.0.1:3000
	$(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1

servers: $(ALL_INSTALLED) ## local GCS and S3 servers to play with
	@$(BIN)/python -m tests.servers

peers: .venv-peers/.installed ## install what the benchmarks compare with, 3 GB, into .venv-peers

.venv-peers/.installed: benchmarks/requirements.txt
	python3 -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

test: $(ALL_INSTALLED) lint ## lint, types, import contracts, then every test that is not slow
	$(BIN)/pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
	@echo "Left out: the tests marked slow (make slow), and what pytest lists as SKIPPED above."

slow: $(ALL_INSTALLED) ## the slow tests alone: proofs that take minutes
	$(BIN)/pytest -m slow -n 3 --dist load --maxschedchunk 1 --max-worker-restart 0

test-all: test slow ## both

lint: $(ALL_INSTALLED) ## format, lint, types, import contracts: checks, changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ALL_INSTALLED) ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: ## pin anew every package that any extra needs, to what resolves today
	rm -rf $(VENV) && python3 -m venv $(VENV)
	$(PIP) torch==2.13.0 torchvision==0.28.0 hatchling editables
	$(PIP) --no-build-isolation --editable '.[$(ALL_EXTRAS)]'
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt
	touch $(INSTALLED) $(ALL_INSTALLED)

clean: ## remove the environments and everything that the demo made
	rm -rf $(VENV) .venv-peers data .dagster/storage .dagster/history .dagster/schedules .dagster/logs
