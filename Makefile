# PYTHON: interpreter that .venv is made from. WORKERS: processes that run the tests.
PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready
DEMO := outputs/make-demo
DEMO_SAMPLERS := langevin linear_noise geometric

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu lint clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## Make .venv, with everything that the other targets need.

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" scripts/setup.sh
	@touch $@

demo: setup  ## Train on the embedded shapes for three minutes, then draw clouds with three samplers.
	rm -rf $(DEMO)
	$(BIN)/python train.py experiment=demo hydra.run.dir=$(DEMO)
	@for sampler in $(DEMO_SAMPLERS); do \
	    $(BIN)/python sample.py checkpoint=$(DEMO)/checkpoints/last sampler=$$sampler num_clouds=16 num_real=8 \
	        output=$(DEMO)/$$sampler || exit 1; \
	done
	@echo "the run, with config.yaml and metrics.jsonl: $(DEMO)"
	@for sampler in $(DEMO_SAMPLERS); do \
	    echo "$$sampler's clouds above real ones:  $(DEMO)/$$sampler/samples.png"; \
	done

test: lint  ## Check the style and types, then run all tests on the CPU.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-gpu: setup  ## Train, sample and test the interaction kernels on a CUDA GPU.
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	    echo "torch $$($(BIN)/python -c 'import torch; print(torch.__version__)') sees no CUDA GPU" >&2; exit 2; }
	$(BIN)/python -m pytest tests/interaction/test_triton_cuda.py tests/test_gpu.py

lint: setup  ## Check style and types only.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## Remove what can be made again, .venv too; data and outputs stay.
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
