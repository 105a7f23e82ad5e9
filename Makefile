# `make quickstart` and `make test` do everything from a clean clone; the rest is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: quickstart test test-fast check format clean

quickstart: $(VENV)/.installed
	$(BIN)/glcic samples data/samples
	$(BIN)/glcic pack data/samples data/quickstart --config quickstart --overwrite
	$(BIN)/glcic preview data/quickstart --output runs/quickstart/preview.png
	$(BIN)/torchrun --nproc_per_node=$(WORKERS) launch/train.py --config quickstart
	$(BIN)/glcic evaluate --config quickstart
	@echo
	@echo "Completed photographs:  runs/quickstart/sheets (the newest is the last)"
	@echo "Loss curves:            runs/quickstart/curves.png"
	@echo "Your own photograph:    $(BIN)/glcic complete PHOTO --hole x,y,width,height --checkpoint runs/quickstart"

test: $(VENV)/.installed-dev check
	$(BIN)/python -m pytest -q

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "not slow and not dist"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, $(PYTHON) is {v[0]}.{v[1]}; say make PYTHON=python3.11" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[samples]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[samples,dev]'
	touch $@

clean:
	rm -rf $(VENV) data runs build *.egg-info
