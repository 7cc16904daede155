# Everything a checkout needs. `make serve` and `make test` make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Which build of ONNX Runtime: cpu, gpu or openvino.
RUNTIME ?= cpu
DATA ?= data
# Tests and training on a CPU need no CUDA build of several GB; without this index plain PyPI would give one. Empty: take PyPI's.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The builds write one folder: installed over each other, none of them is whole.
remove_other_runtimes = rm -f $(VENV)/.serve-* $(VENV)/.train && \
	$(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu onnxruntime-openvino 2>/dev/null

take_torch = $(BIN)/pip install --quiet --retries 1 --no-deps $(addprefix --extra-index-url ,$(TORCH_INDEX)) "$(TORCH)"

.PHONY: serve train test test-all torture check format proto docs bench bench-training bench-gallery bench-first-pair bench-scaling bench-startup bench-attack bench-losses bench-calibration bench-cleaning bench-gate lock sbom clean

serve: $(VENV)/.serve-$(RUNTIME)
	$(BIN)/facesphere serve --data-dir $(DATA) $(ARGS)

train: $(VENV)/.train
	$(BIN)/facesphere-train --help

# A file of tests is one process's, so that its servers are started once. One process more than cores: now and then one only waits.
PARALLEL := -n $(or $(shell $(PYTHON) -c "import os; print(min(4, len(os.sched_getaffinity(0)) + 1))" 2>/dev/null),3) --dist loadfile
test: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-all: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL) -m "slow or not slow" $(ARGS)

# Hours: kills, faults, damage, with the counts of docs/reliability.md. TORTURE=0.1 for a tenth of them.
TORTURE ?= 1
TORTURED := $(addprefix tests/service/test_,reliability.py activation_under_load.py snapshots.py many_clients.py searching_while_erasing.py openapi_fuzzing.py postgres_standby.py) tests/training/test_retrain.py
torture: $(VENV)/.dev
	TORTURE=$(TORTURE) $(BIN)/pytest $(TORTURED) -s -m "slow or not slow" $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	proto/check.sh

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documents as a site, in build/docs; a link or an anchor that leads nowhere fails it.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/docs/index.html

proto: $(VENV)/.dev
	proto/generate.sh

# A few minutes: what a photo costs served, and throughput, crowds and overload in short rounds.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/latency.py --rounds 10
	$(BIN)/python benchmarks/throughput.py --seconds 1 --rounds 1
	$(BIN)/python benchmarks/crowd.py --seconds 2 --rounds 1
	$(BIN)/python benchmarks/overload.py --seconds 3 --rounds 1
	$(BIN)/python benchmarks/identify.py --faces 20000 --seconds 1 --rounds 1
	$(BIN)/python benchmarks/gallery.py --sizes 10000x512 100000x128
	$(BIN)/python benchmarks/startup.py --sizes 10000x128 --rounds 1

bench-training: $(VENV)/.dev
	$(BIN)/python benchmarks/training.py $(ARGS)

bench-gallery: $(VENV)/.dev
	$(BIN)/python benchmarks/gallery.py $(ARGS)

# In an empty folder, packages and models from the network.
bench-first-pair: $(VENV)/.dev
	$(BIN)/python benchmarks/first_pair.py $(ARGS)

bench-startup: $(VENV)/.dev
	$(BIN)/python benchmarks/startup.py $(ARGS)

bench-attack: $(VENV)/.dev
	$(BIN)/python benchmarks/attack.py $(ARGS)

bench-scaling: $(VENV)/.dev
	$(BIN)/python benchmarks/scaling.py $(ARGS)

bench-losses: $(VENV)/.dev
	$(BIN)/python benchmarks/losses.py $(ARGS)

bench-calibration: $(VENV)/.dev
	$(BIN)/python benchmarks/calibration.py $(ARGS)

bench-cleaning: $(VENV)/.dev
	$(BIN)/python benchmarks/cleaning.py $(ARGS)

bench-gate: $(VENV)/.dev
	$(BIN)/python benchmarks/gate.py $(ARGS)

# What the images install: every file pinned by its SHA-256. LOCK=--upgrade takes the newest.
lock: $(VENV)/.dev
	docker/lock.sh $(LOCK)

# A bill of materials (CycloneDX 1.6) of what is installed in this environment.
sbom: $(VENV)/.dev
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON -o build/sbom.cdx.json $(VENV)
	@echo build/sbom.cdx.json

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve-$(RUNTIME): pyproject.toml | $(BIN)/pip
	$(remove_other_runtimes)
	$(BIN)/pip install --quiet -e ".[$(RUNTIME)]"
	touch $@

$(VENV)/.train: $(VENV)/.serve-$(RUNTIME)
	$(take_torch)
	$(BIN)/pip install --quiet -e ".[$(RUNTIME),train]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(remove_other_runtimes)
	$(take_torch)
	$(BIN)/pip install --quiet -e ".[$(RUNTIME),train,dev]"
	touch $@ $(VENV)/.train $(VENV)/.serve-$(RUNTIME)
