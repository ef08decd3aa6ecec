# `make demo` and `make test` install what they need; they require git, make and Python >= 3.10

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs docs-links format clean

demo: .venv/installed
	$(BIN)/python examples/demo.py

# Several processes with one thread each: the networks are too small for more threads
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

# The site in docs/_build/html; warnings are errors. ONLINE=1 adds links into the docs of SB3, Gymnasium and others;
# warnings are no errors then, since any of these sites may be down
docs: .venv/installed
	$(BIN)/python -m sphinx -b html -q -d docs/_build/doctrees $(if $(ONLINE),-t online,-W --keep-going) docs docs/_build/html

# Links to other sites, which need a network
docs-links: .venv/installed
	$(BIN)/python -m sphinx -b linkcheck -q -d docs/_build/doctrees docs docs/_build/links

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

clean:
	rm -rf .venv build dist demo docs/_build .pytest_cache .mypy_cache .ruff_cache
