# `make demo` and `make test` install what they need; they require git, make and Python 3.10 to 3.13

PYTHON ?= python3
# Another Python has another environment: `make test PYTHON=python3.12` installs into .venv-3.12
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])"))
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-ray test-sbx lint types docs docs-links format package clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

# Several processes with one thread each: the networks are too small for more threads. Tests that use two must not keep
# a processor busy while one waits for the other
test: $(VENV)/installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not ray and not sbx"

# Long tests; faster ones show the same behaviour
test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

# SBX's algorithms, which need JAX and Python >= 3.11
test-sbx: $(VENV)/installed-sbx
	OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/sbx

# Tests on a Ray cluster, whose processes need the processors themselves
test-ray: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray

lint: $(VENV)/installed
	$(BIN)/ruff check .
# The encoding of text files must not depend on the system
	$(BIN)/ruff check --preview --select PLW1514 .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_language.py

types: $(VENV)/installed
	$(BIN)/mypy
# Nothing that only Linux has
	$(BIN)/mypy --platform win32

# The site in docs/_build/html; warnings are errors. ONLINE=1 adds links into the docs of SB3, Gymnasium and others;
# warnings are no errors then, since any of these sites may be down
docs: $(VENV)/installed
	$(BIN)/python -m sphinx -b html -q -d docs/_build/doctrees $(if $(ONLINE),-t online,-W --keep-going) docs docs/_build/html

# Links to other sites, which need a network
docs-links: $(VENV)/installed
	$(BIN)/python -m sphinx -b linkcheck -q -d docs/_build/doctrees docs docs/_build/links

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel is tried in a new environment, outside the repository
package: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install -q -c constraints.txt "$$(ls dist/*.whl)[zoo]"
	cd build && venv/bin/sb3-reptile train --env CartPole-v1 -n 2000 --eval-freq -1 -f logs

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; v = sys.version_info; v >= (3, 10) or sys.exit( \
	  f'Python >= 3.10 is needed, $(PYTHON) is {v.major}.{v.minor}: try make PYTHON=python3.11')"
	@$(PYTHON) -c "import ensurepip, venv" || \
	  { echo "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-sbx: $(VENV)/installed
	$(BIN)/python -m pip install -c constraints.txt -e '.[sbx]'
	touch $@

clean:
	rm -rf .venv .venv-3.* build dist demo docs/_build .pytest_cache .mypy_cache .ruff_cache
