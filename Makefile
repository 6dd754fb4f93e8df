# PYTHON: interpreter that .venv is made from. WORKERS: processes that run the tests.
PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready
DEMO := outputs/make-demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## Make .venv, with everything that the other targets need.

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" scripts/setup.sh
	@touch $@

demo: setup  ## Train on embedded shapes for three minutes, then draw clouds from the checkpoint.
	rm -rf $(DEMO)
	$(BIN)/python train.py experiment=demo hydra.run.dir=$(DEMO)
	$(BIN)/python sample.py checkpoint=$(DEMO)/checkpoints/last num_clouds=8 seed=1 output=$(DEMO)/drawn
	@echo "generated clouds above training data: $(DEMO)/samples.png"
	@echo "clouds drawn from the checkpoint:      $(DEMO)/drawn/samples.png"

test: lint  ## Check the style and types, then run all tests on the CPU.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: setup  ## Check style and types only.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## Remove what can be made again, .venv too; data and outputs stay.
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
