# `make demo` and `make test` do all set-up on a fresh machine. Settings: make test PYTHON=python3.12 VENV=.venv312
# On Linux, pip takes PyTorch with its GPU libraries (gigabytes). Without a GPU, this takes the small one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# One thread: the tests' models are too small for two to help. So each core takes tests of its own, up to four.
TEST_ENV = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKERS = -n auto --maxprocesses 4

.PHONY: demo test fuzz check format clean

demo: $(VENV)/.ladle
	$(BIN)/ladle demo

test: $(VENV)/.ladle-dev
	$(TEST_ENV) $(BIN)/python -m pytest $(WORKERS) $(ARGS)

# N new odd inputs for the command line and the library, in about a quarter of an hour (tests/fuzz).
N ?= 10000
fuzz: $(VENV)/.ladle-dev
	LADLE_FUZZ=$(N) $(TEST_ENV) $(BIN)/python -m pytest $(WORKERS) tests/fuzz $(ARGS)

check: $(VENV)/.ladle-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ladle-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp files: an installation is done again only when what it depends on has changed.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Ladle needs Python 3.11 or newer; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON); PyTorch is large, this takes a few minutes" >&2
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ladle: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.ladle-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.ladle
