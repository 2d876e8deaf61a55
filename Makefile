# The two commands: `make demo` and `make test`. Both set up .venv first; they need Python 3.11 or
# newer, make, and a network for the first time.

PYTHON ?= python3
BIN := .venv/bin
# Bytecode makes every command start several times as fast, so keep it even where it is turned off.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check slow setup docs constraints clean

demo: setup
	$(BIN)/orch data make-mini waterbirds
	$(BIN)/orch launch sweeps/demo.yaml
	$(BIN)/orch report --sweep demo --table ood --table id

test: setup
	$(BIN)/python -m pytest -m "not slow"

# Lint, format and types.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: setup
	$(BIN)/python -m pytest -m slow

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "orch needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	@touch $@

# The command reference, from the commands' own help.
docs: setup
	$(BIN)/python docs/cli.py > docs/cli.md

# Pins what a fresh resolution gives today; names and versions only.
constraints:
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-pins/bin/uv pip install --quiet --python .venv-pins/bin/python '.[dev]'
	.venv-pins/bin/uv pip freeze --python .venv-pins/bin/python | grep -v -E '^(-e|orch)' > constraints.txt
	rm -rf .venv-pins

# What the build made; never results.
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
