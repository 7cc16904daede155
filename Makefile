# Everything a checkout needs. `make serve` and `make test` make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which build of ONNX Runtime: cpu, gpu or openvino.
RUNTIME ?= cpu
DATA ?= data

.PHONY: serve test test-all check format proto bench clean

serve: $(VENV)/.serve-$(RUNTIME)
	$(BIN)/facesphere serve --data-dir $(DATA) $(ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest $(ARGS)

test-all: $(VENV)/.dev
	$(BIN)/pytest -m "slow or not slow" $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	proto/check.sh

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.dev
	proto/generate.sh

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/latency.py

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve-$(RUNTIME): pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet -e ".[$(RUNTIME)]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet -e ".[$(RUNTIME),dev]"
	touch $@ $(VENV)/.serve-$(RUNTIME)
