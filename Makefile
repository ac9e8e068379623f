# The README's commands. They install into a virtual environment of the project's own first; a second call
# installs only what has changed. Settings: PYTHON (3.11 or newer), VENV (the environment's folder), TORCH_INDEX (see
# requirements.txt).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
MODULE ?= memory.pool
TESTS ?= test_$(lastword $(subst ., ,$(MODULE)))

BIN := $(abspath $(VENV))/bin
# the stages' own commands (torchrun, python) are those of the environment
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test notebooks mutants clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	@git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/dvc config -q --local core.no_scm true  # an unpacked archive
	cd experiments/quickstart && $(BIN)/dvc repro

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# every figure, out of the saved evaluations, into plots/notebooks; the notebooks themselves stay as they are
notebooks: $(VENV)/.installed
	$(BIN)/jupyter execute notebooks/*.ipynb

# faults put into a module one by one, and which of them no test notices: make mutants MODULE=memory.state
# [TESTS="test_state or test_api"]: as for pytest's -k, otherwise the test file of the module's name; none of them may
# need files outside src and tests. The first call makes the faults of every module (minutes).
mutants: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 PYTEST_ADDOPTS='-k "$(TESTS)"' $(BIN)/mutmut run 'gnm.$(MODULE).*'
	$(BIN)/mutmut results

clean:
	rm -rf $(VENV) mutants

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q "$$(grep '^torch==' requirements.txt)" --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	@touch $@
