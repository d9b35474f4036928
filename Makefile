# Everything runs in .venv, which these targets make; nothing is needed before them but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install lint test demo bench-export bench-serving clean

install: .venv/.installed

# torch first and by its exact version: an open range can take a build with gigabytes of CUDA libraries.
.venv/.installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[cpu,export,bench,dev]'
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

demo: install
	$(BIN)/python examples/digits/demo.py

bench-export: install
	$(BIN)/python docs/benchmarks/measure_export.py

bench-serving: install
	$(BIN)/python -m bench.serving --to docs/benchmarks/serving.md

clean:
	rm -rf .venv model_repository examples/digits/best.pth
