# Every target sets up what it needs: a virtual environment with the pinned dependencies.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test check fix docs bench clean

help:
	@echo "make demo    chat, vision and streaming with the bundled model, offline"
	@echo "make test    the test suite"
	@echo "make check   lint, types, import rules"
	@echo "make fix     what lint can mend by itself"
	@echo "make docs    the documentation, into site/"
	@echo "make bench   the benchmarks that this machine can run"

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,templates]' --group dev
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/quickstart.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/zensical build --clean

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) site dist build .hypothesis .ruff_cache .import_linter_cache
