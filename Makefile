# Two commands need nothing but Python 3.11 or newer: `make demo` and `make test`. `make` lists all.

PYTHON ?= python3
VENV   ?= .venv
VENV_LABEL ?= .venv-label
VENV_FLOOR ?= .venv-floor
VENV_LATEST ?= .venv-latest
PY     := $(VENV)/bin/python
BUNDLE := $(PY) -m monai.bundle run --config_file

# Folder of the real images, for `make results-...`; data_prep makes it from the official downloads.
ROBUSTMED_DATA ?= $(abspath ../shared/data)

.DEFAULT_GOAL := help
.PHONY: help demo format-configs test test-slow test-floor test-latest check lint types tables tables-check results-ra results-memory results-maps results-segmenter results-other-scanners results-calibration results-unoranic results-risc results-pchvae results-cifl results-heads results-stress bench \
    label-demo docs clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) is not there; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$$($(PYTHON) --version 2>&1) is too old; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The set-up is done again only when what it depends on is newer than its stamp.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --constraint constraints.txt --editable .
	@touch $@

# The development set-up contains the plain one.
$(VENV)/.installed-dev: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed ## train, evaluate and apply RA on the embedded data (no download, minutes on a CPU)
	$(BUNDLE) bundles/ra/configs/train.json
	$(BUNDLE) bundles/ra/configs/evaluate.json --weights out/ra/train/model.pt
	$(PY) -m robustmed_monai.cli demo ra --weights out/ra/train/model.pt
	@echo
	@echo "The demo is done. Look at"
	@echo "  out/ra/inference  anomaly map, pseudo-healthy volume and mask (NIfTI), worst slices (PNG), scores (JSON)"
	@echo "  out/ra/evaluate   image sheets, histograms and curves (PNG), metrics (JSON)"
	@echo "  out/ra/train      the course of the training: $(PY) -m tensorboard.main --logdir out/ra/train"

# Files in the order of their folders: the bundles, which take longest, come early.
PYTEST_ARGS := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)

test: lint ## ruff, the layers, and the tests but for the slow ones (minutes)
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev ## trainings, exports, kills, several processes, the pages' commands, MONAI Label
	$(PYTEST) -m slow

# Environments at both ends of what setup.cfg allows, whose parts warn of each other. TESTS names a part: make test-floor TESTS=tests/networks
TESTS ?= tests robustmed_monai
ENDS := $(PYTEST_ARGS) -m "not slow" -W ignore::DeprecationWarning -W ignore::FutureWarning

$(VENV_FLOOR)/.installed: setup.cfg tools/lowest_versions.py
	$(PYTHON) -m venv $(VENV_FLOOR)
	$(PYTHON) tools/lowest_versions.py > $(VENV_FLOOR)/constraints.txt
	$(VENV_FLOOR)/bin/python -m pip install --constraint $(VENV_FLOOR)/constraints.txt --editable '.[dev]'
	@touch $@

$(VENV_LATEST)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV_LATEST)
	$(VENV_LATEST)/bin/python -m pip install --upgrade --editable '.[dev]'
	@touch $@

test-floor: $(VENV_FLOOR)/.installed ## the quick tests with the lowest versions that setup.cfg allows
	$(VENV_FLOOR)/bin/python -m pytest $(ENDS) $(TESTS)

test-latest: $(VENV_LATEST)/.installed ## the quick tests with the newest versions there are
	$(VENV_LATEST)/bin/python -m pytest $(ENDS) $(TESTS)

check: types tables-check test ## what a change has to pass: mypy, the tables of the READMEs, and `make test`

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) tools/format_configs.py --check
	$(VENV)/bin/lint-imports

types: $(VENV)/.installed-dev
	$(PY) -m mypy

format-configs: $(VENV)/.installed ## lay the bundles' JSON out: what fits on one line stands on one line
	$(PY) tools/format_configs.py

tables: $(VENV)/.installed ## write the tables of the pages from the results files
	$(PY) tools/tables.py

tables-check: $(VENV)/.installed
	$(PY) tools/tables.py --check

results-ra: $(VENV)/.installed ## the results table of RA on the real images in ROBUSTMED_DATA (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_ra.py

results-memory: $(VENV)/.installed ## the results tables of the feature memory on the real images in ROBUSTMED_DATA
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_memory.py

results-maps: $(VENV)/.installed ## the shipped memory's maps with a healthy reference and inside of the brain
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_maps.py

results-segmenter: $(VENV)/.installed ## a segmenter of artificial anomalies, alone and times the memory
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_segmenter.py

results-other-scanners: $(VENV)/.installed ## RA and its controls of two data sets and random scanners, and healthy heads of another scanner (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_other_scanners.py

results-calibration: $(VENV)/.installed ## conformal p-values of healthy images of several sites, in ROBUSTMED_DATA
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_calibration.py

results-unoranic: $(VENV)/.installed ## the results tables of unORANIC on MedMNIST in ROBUSTMED_DATA (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_unoranic.py

results-risc: $(VENV)/.installed ## the results tables of RISC on MedMNIST in ROBUSTMED_DATA (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_risc.py

results-pchvae: $(VENV)/.installed ## the results tables of pchVAE on the brains in ROBUSTMED_DATA (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_pchvae.py

results-cifl: $(VENV)/.installed ## the results tables of CIFL on OASIS in ROBUSTMED_DATA (hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_cifl.py

results-heads: $(VENV)/.installed ## the tables of whole heads in ROBUSTMED_DATA (two hours)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_heads.py
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_head_registration.py
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_head_rivals.py

results-stress: $(VENV)/.installed ## stress tests of the shipped models on ROBUSTMED_DATA (an hour)
	ROBUSTMED_DATA="$(ROBUSTMED_DATA)" $(PY) tools/results_stress.py

bench: $(VENV)/.installed ## the benchmarks, side by side with their peers
	for script in benchmarks/bench_*.py; do $(PY) $$script || exit 1; done

# MONAI Label holds numpy and pydicom at older versions: an environment of its own.
$(VENV_LABEL)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV_LABEL)
	$(VENV_LABEL)/bin/python -m pip install --editable '.[label]'
	@touch $@

label-demo: $(VENV_LABEL)/.installed ## MONAI Label server with embedded brains on http://127.0.0.1:8000
	$(VENV_LABEL)/bin/python -m robustmed_monai.apps.monailabel.demo

$(VENV)/.installed-docs: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --constraint constraints.txt --editable '.[docs]'
	@touch $(VENV)/.installed $@

docs: $(VENV)/.installed-docs ## the documentation site, out/site/index.html; a warning is an error
	$(PY) -m sphinx -q -W --keep-going -b html -d out/site-cache -c docs . out/site

clean: ## remove the environment and what tools left behind; the runs in out/ stay
	rm -rf $(VENV) $(VENV_LABEL) $(VENV_FLOOR) $(VENV_LATEST) build dist *.egg-info .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
