# The README's two commands. Each makes .venv when it is missing and installs the project into it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test coverage lint types docs wheel clean

demo: $(VENV)/installed  ## Train a detector from one point per target on generated images, and show what it finds.
	$(BIN)/istd demo --out runs/demo

test: $(VENV)/installed  ## Run the tests on all cores, a file on one of them, slow ones first.
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

coverage: $(VENV)/installed  ## The tests, and the share of lines and branches that they run; too small a share is an error.
	PYTEST_ADDOPTS="$$PYTEST_ADDOPTS --cov --cov-report=" $(MAKE) test
	$(BIN)/coverage report --include='bilevel/*' --fail-under=90
	$(BIN)/coverage report --include='istd/*' --fail-under=85

lint: $(VENV)/installed  ## Style, and who may import whom (pyproject.toml, tool.importlinter).
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed  ## Static types.
	$(BIN)/mypy

docs: $(VENV)/installed  ## The documentation, into site/; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/installed  ## Build the wheel and use it in an environment that has nothing but what it declares.
	$(BIN)/python .ci/wheel.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:  ## Remove the environment and what the demo and the documentation wrote.
	rm -rf $(VENV) runs/demo site
