# What people do with featcache. Everything happens in a virtual environment of its own.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
# `make test TESTS=tests/test_keys.py`
TESTS ?=
# processes of the whole suite; each grows to some GB, as TensorFlow keeps what it compiles
JOBS ?= 2
# TensorFlow with CUDA's libraries where an NVIDIA driver answers; every target is built on this installation.
GPU := $(if $(shell nvidia-smi -L 2>/dev/null),[gpu])
INSTALLED := $(VENV)/.installed$(if $(GPU),-gpu)
# setuptools warns at every editable install that a folder of the same name might be imported instead: it is the same.
PIP := PYTHONWARNINGS=ignore $(BIN)/pip --quiet --disable-pip-version-check install

.PHONY: help submit test lint docs dist format bench bench-cache bench-extract bench-heads bench-quality bench-convnet bench-defaults bench-memory bench-scaling bench-gpu bench-architectures bench-report bench-index clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

submit: $(INSTALLED)  ## Set up, and take the embedded digits to a checked submission
	@echo "The first run downloads VGG16's ImageNet weights, 59 MB, to ~/.keras (or KERAS_HOME); later ones download nothing"
	$(BIN)/luigi --module pipeline Submit

test: $(VENV)/.developed  ## Set up, and run the tests (set FEATCACHE_SHARED for those on real data)
	$(BIN)/python -m pytest $(if $(TESTS),$(TESTS),-n $(JOBS) --dist loadfile --no-loadscope-reorder)

lint: $(VENV)/.developed  ## Check format, style, types and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.documented  ## Build the documentation into build/docs; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -n -q docs build/docs

dist: $(INSTALLED)  ## Build wheel and sdist into dist, check them, and run the wheel in an environment and a folder of its own
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[dist]'
	rm -rf dist build/lib
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	.ci/wheel $(BIN)/python dist/*.whl

format: $(VENV)/.developed  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.developed  ## Measure the main job on real data (FEATCACHE_SHARED must be set)
	$(BIN)/python benchmarks/main_job.py

bench-cache: $(VENV)/.developed  ## Measure reading and writing a cache against NumPy
	$(BIN)/python benchmarks/cache_io.py

bench-extract: $(VENV)/.developed  ## Measure extraction against bare forward passes and the naive way
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[bench]'
	$(BIN)/python benchmarks/extract.py

bench-quality: $(VENV)/.developed  ## Measure the ensemble against what a user would pick instead
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[bench]'
	$(BIN)/python -W ignore benchmarks/quality.py

bench-defaults: $(VENV)/.developed  ## Measure the default heads against variants of themselves
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[bench]'
	$(BIN)/python benchmarks/defaults.py

bench-memory: $(VENV)/.developed  ## Measure the peak memory of every stage and command, up to a million rows
	$(BIN)/python benchmarks/memory.py

bench-heads: $(VENV)/.developed  ## Measure a bag of heads against plain Keras fits, one after the other
	$(BIN)/python benchmarks/heads.py

bench-convnet: $(VENV)/.developed  ## Measure how fast small convolutional networks train
	$(BIN)/python benchmarks/convnet.py

bench-scaling: $(VENV)/.developed  ## Measure one worker against two (FEATCACHE_SHARED must be set)
	$(BIN)/python benchmarks/scaling.py

bench-gpu: $(INSTALLED)  ## Measure a GPU, under 8 minutes; without one a rehearsal on the processor
	$(BIN)/python benchmarks/gpu.py

bench-architectures: $(VENV)/.developed  ## Build and run every network of keras.applications once
	$(BIN)/python benchmarks/architectures.py

bench-report: $(VENV)/.developed  ## Measure the report of 10,000 photos: time, bytes, and how soon a browser shows it
	$(BIN)/python benchmarks/report.py

bench-index: $(VENV)/.developed  ## Measure listing 100,000 image files, new and unchanged, against reading them
	$(BIN)/python benchmarks/index.py

clean:  ## Remove the virtual environment and caches, never artifacts
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "featcache needs Python 3.11, 3.12 or 3.13; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=24'

$(INSTALLED): $(BIN)/pip setup.cfg pyproject.toml $(CONSTRAINTS)
	@echo "Installing featcache$(GPU) and TensorFlow into $(VENV): about $(if $(GPU),4 GB,0.8 GB) to download, $(if $(GPU),8 GB,3 GB) on the disk; once ..."
	$(PIP) --constraint $(CONSTRAINTS) --editable '.$(GPU)'
	@touch $@

$(VENV)/.developed: $(INSTALLED)
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

$(VENV)/.documented: $(INSTALLED)
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[docs]'
	@touch $@
