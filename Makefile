# `make quickstart` and `make test` do everything from a clean clone; the rest is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# Test files that run side by side. Threads that wait by spinning would take each other's cores.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# A part of Chelsea the cat, of which the network has seen nothing.
PHOTOGRAPH ?= data/samples/val/chelsea/chelsea-256-96-160.png

.PHONY: quickstart test test-fast check format docs clean

quickstart: $(VENV)/.installed
	$(BIN)/glcic samples data/samples
	$(BIN)/glcic pack data/samples data/quickstart --config quickstart --overwrite
	$(BIN)/glcic preview data/quickstart --output runs/quickstart/preview.png
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node=$(WORKERS) launch/train.py --config quickstart
	$(BIN)/glcic complete $(PHOTOGRAPH) --hole 60,60,48,48 --longest-side 80 --blend --checkpoint runs/quickstart --output runs/quickstart/completed.png
	@echo
	@echo "Completed photographs:  runs/quickstart/sheets, one sheet every few hundred steps"
	@echo "Loss curves:            runs/quickstart/curves.png"
	@echo "What was packed:        runs/quickstart/preview.png"
	@echo "A hole in a whole photograph: runs/quickstart/completed.png"
	@echo "Your own photograph:    $(BIN)/glcic complete PHOTO --hole X,Y,WIDTH,HEIGHT --checkpoint runs/quickstart"

test: $(VENV)/.installed-dev check
	$(PYTEST)

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not dist"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m docs_site --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open build/site/index.html"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, $(PYTHON) is {v[0]}.{v[1]}; say make PYTHON=python3.11" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[samples]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[samples,dev,docs]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[samples,docs]'
	touch $@

clean:
	rm -rf $(VENV) data runs build *.egg-info
