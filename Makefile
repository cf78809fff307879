# Two commands do everything: `make reproduce` and `make test`. Both create the environment on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     ?= $(shell command -v uv 2>/dev/null)
PIP    := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check) -c constraints.txt
STAMP  := $(VENV)/.installed
TIER   ?= mini
ARGS   ?=
TORCH  ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/$(TORCH)

.PHONY: reproduce test torture bench gpu lab prepare environment clean-environment

reproduce: $(STAMP)  ## train what is missing, run every reproduction notebook, write figures/
	$(BIN)/dgnet_reproduce --tier $(TIER) $(ARGS)

test: $(STAMP)  ## export and clean leave no diff, library notebooks, pytest, reproduction notebooks at smoke
	$(BIN)/python tests/run_all.py

torture: $(STAMP)  ## kill a small training fifty times at random moments, fill its disk, compare the weights (some ten minutes)
	$(BIN)/python tests/torture.py $(ARGS)

bench: $(STAMP)  ## time training steps, evaluation, loading and generation; writes local/bench/*.json (ARGS=--quick: a minute)
	$(BIN)/python benchmarks/run_all.py $(ARGS)

gpu: $(STAMP)  ## on a GPU: tests, tier full, benchmarks, and Table 3 on real photos with ARGS="--market FOLDER"; goes on where it was stopped
	$(BIN)/python benchmarks/gpu.py $(ARGS)

lab: $(STAMP)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

prepare: $(STAMP)  ## before a commit: export, clean, test
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean && $(MAKE) test

environment: $(STAMP)  ## only the environment (TORCH=cpu: PyTorch without its GPU libraries, which are most of it)

$(STAMP): settings.ini constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; call make PYTHON=/path/to/python3")'
	$(if $(UV),$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; })
	@echo "Installing the pinned packages into $(VENV)$(if $(UV), with uv (UV= takes pip)): $(if $(TORCH),PyTorch for $(TORCH) from $(TORCH_INDEX),about 5 GB with PyTorch's GPU libraries (TORCH=cpu leaves them out))"
	$(if $(TORCH),$(PIP) --index-url $(TORCH_INDEX) torch torchvision || { echo "no matching pair there; without TORCH=$(TORCH) the usual one is installed"; exit 1; })
	$(PIP) -e ".[dev]"
	$(BIN)/python -c "import torchvision, dgnet"
	@touch $(STAMP)

clean-environment:
	rm -rf $(VENV)
