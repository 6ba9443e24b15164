# The commands of the README. Everything runs in the virtual environment .venv, which any of them makes first.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := orchestration,gcs,s3,dagster-gcp,dagster-aws,postgres,kubernetes,celery,openvino,heif,jxl,umap,demo,test,lint
INSTALLED := $(VENV)/.installed
export DAGSTER_HOME := $(CURDIR)/.dagster
# Packages are compiled when they are first imported, and the result has to be kept.
unexport PYTHONDONTWRITEBYTECODE
DEMO := orchestration/defs/demo/defs.yaml

.DEFAULT_GOAL := help
.PHONY: help demo ui servers test slow test-all lint format constraints clean

help: ## these commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PIP) --constraint constraints.txt hatchling editables
	$(PIP) --no-compile --constraint constraints.txt --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED) ## install, then run the whole chain on real photographs
	@$(BIN)/shardmill demo-photographs data/demo/raw
	@$(BIN)/python -m orchestration.materialize $(DEMO)

ui: $(INSTALLED) ## open the Dagster UI on what the demo made, at http://127.0.0.1:3000
	$(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1

servers: $(INSTALLED) ## local GCS and S3 servers to play with
	@$(BIN)/python -m tests.servers

test: $(INSTALLED) lint ## lint, types, import contracts, then every test that is not slow
	$(BIN)/pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder
	@echo "Left out: the tests marked slow (make slow), and what pytest lists as SKIPPED above."

slow: $(INSTALLED) ## the slow tests alone: proofs that take minutes
	$(BIN)/pytest -m slow -n 3 --dist load --maxschedchunk 1

test-all: test slow ## both

lint: $(INSTALLED) ## format, lint, types, import contracts: checks, changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: ## pin anew every package that any extra needs, to what resolves today
	rm -rf $(VENV) && python3 -m venv $(VENV)
	$(PIP) torch==2.13.0 torchvision==0.28.0 hatchling editables
	$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt
	touch $(INSTALLED)

clean: ## remove the environment and everything that the demo made
	rm -rf $(VENV) data .dagster/storage .dagster/history .dagster/schedules .dagster/logs
