# `make demo` and `make test` install what they need; they require git, make and Python >= 3.10

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-sbx lint types format clean

demo: .venv/installed
	$(BIN)/python examples/demo.py

# Several processes with one thread each: the networks are too small for more threads
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not sbx"

# SBX's algorithms, which need JAX and Python >= 3.11
test-sbx: .venv/installed-sbx
	OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/sbx

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; v = sys.version_info; v >= (3, 10) or sys.exit( \
	  f'Python >= 3.10 is needed, $(PYTHON) is {v.major}.{v.minor}: try make PYTHON=python3.11')"
	@$(PYTHON) -c "import ensurepip, venv" || \
	  { echo "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

.venv/installed-sbx: .venv/installed
	$(BIN)/python -m pip install -c constraints.txt -e '.[sbx]'
	touch $@

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache
