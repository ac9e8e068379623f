# The README's commands. They install into a virtual environment of the project's own first; a second call
# installs only what has changed. Settings: PYTHON (3.11 or newer), VENV (the environment's folder), TORCH_INDEX (see
# requirements.txt).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
MODULE ?= memory.pool
TESTS ?= test_$(lastword $(subst ., ,$(MODULE)))
# what quickstart ran here: its results are this machine's own, so git is not to see its dvc.lock
LOCK := build/quickstart.lock
FAST := tests/data tests/memory tests/metrics tests/models tests/training tests/inference tests/test_config.py \
	tests/test_files.py tests/test_errors.py tests/test_docs.py

BIN := $(abspath $(VENV))/bin
# the stages' own commands (torchrun, python) are those of the environment
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test test-fast docs lock notebooks screenshots mutants clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	@git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/dvc config -q --local core.no_scm true  # an unpacked archive
	@mkdir -p build; [ ! -f $(LOCK) ] || cp $(LOCK) experiments/quickstart/dvc.lock
	@cd experiments/quickstart && trap '[ ! -f dvc.lock ] || mv dvc.lock ../../$(LOCK)' EXIT INT TERM && $(BIN)/dvc repro

# two processes: the longest files take as long as all others
test: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

# about a minute: what every change should pass before the rest is run
test-fast: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow and not gpu" $(FAST)

# the pages of docs/, into build/docs; links that lead nowhere end it
docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build

# dvc.lock of the folders whose results are shipped, and the README's numbers, after new results:
# make lock [FOLDERS="experiments/people ..."]
lock: $(VENV)/.installed
	$(BIN)/python tools/lock.py $(FOLDERS)
	$(BIN)/python tools/readme.py

# every figure, out of the saved evaluations, into plots/notebooks; the notebooks themselves stay as they are
notebooks: $(VENV)/.installed
	$(BIN)/jupyter execute notebooks/*.ipynb

# the page of `gnm serve` as docs/serve.md shows it; needs Chromium and the backbone
screenshots: $(VENV)/.installed-dev
	GNM_SCREENSHOTS=docs/page $(BIN)/python -m pytest tests/serve/test_page.py -k test_screenshots

# faults put into a module one by one, and which of them no test notices: make mutants MODULE=memory.state
# [TESTS="test_state or test_api"]: as for pytest's -k, otherwise the test file of the module's name; none of them may
# need files outside src and tests. The first call makes the faults of every module (minutes). CONTRIBUTING.md says which
# share of them the tests catch.
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
