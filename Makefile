# Every target sets up what it needs: a virtual environment with the pinned dependencies.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
FAST := tests/sdk tests/images tests/prompting tests/output tests/tools tests/prose --deselect tests/sdk/test_examples.py

.PHONY: help demo test test-fast check fix docs bench wheel-check clean

help:
	@echo "make demo    chat, vision and streaming with the bundled model, offline"
	@echo "make test    the test suite; make test ARGS=\"-k name\" for a part of it"
	@echo "make test-fast   the part that takes under 90 s: all but kernels, training and servers"
	@echo "make check   lint, types, import rules"
	@echo "make fix     what lint can mend by itself"
	@echo "make docs    the documentation, into site/"
	@echo "make bench   the benchmarks that this machine can run"
	@echo "make wheel-check   build the wheel, look into it, and chat from it in a bare environment"

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gpu,serve,templates]' --group dev --group clients
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/quickstart.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(FAST) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tests/prose_check.py
	$(BIN)/pyright

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m docs_parts
	$(BIN)/zensical build --clean

bench: $(READY)
	$(BIN)/python -m benchmarks

wheel-check: $(READY)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tests/wheel_check.py dist

clean:
	rm -rf $(VENV) site dist build .hypothesis .pytest_cache .ruff_cache .import_linter_cache
