# The commands of a checkout. They use the active virtual environment, or make one in .venv.
#
#   make demo        install, process both example data sets, say where the reports are
#   make test        install with the test extras, run the tests, TEST_JOBS=2 at once
#   make test-slow   the tests that take minutes as well
#   make test-slurm  an array of jobs on a real SLURM, started on this host (needs root, slurm-wlm and munge);
#                    writes docs/slurm-transcript.md
#   make wheel-check build the wheel, install it into an empty environment, run it from another folder
#   make test-trust  10,000 mutated data sets, kills at random moments, processes side by side (an hour or more)
#   make test-offline  the tests of the pipeline without a network
#   make test-html   the demo's pages in a headless browser: errors, accessibility (needs node, npm and chromium)
#   make docs        build the documentation into site/
#   make lint        ruff (style, format) and mypy
#   make benchmark   accuracy of every method on the examples, as Markdown tables
#   make benchmark-fieldmap   from phase to local field, on simulated heads
#   make benchmark-mismatch   the same where the field holds what no map explains
#   make benchmark-networks   learned against classical inversions, on heads that no network was trained on
#   make benchmark-sizes   time and memory against the size of the matrix
#   make benchmark-segmentation   brain masks and segmentations by the networks, beside BET
#   make benchmark-pediatric   PedQ-NET and others on heads of children
#   make examples    simulate bids_examples again
#   make clean       remove what the targets above made, except .venv

PYTHON ?= python3
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
# An environment may have served another checkout: what it was installed for is kept in the stamp.
RUN_STAMP := $(VENV)/.qsmprep-run
TEST_STAMP := $(VENV)/.qsmprep-test
DEV_STAMP := $(VENV)/.qsmprep-dev
DOCS_STAMP := $(VENV)/.qsmprep-docs
ifneq ($(shell cat $(RUN_STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(RUN_STAMP) $(TEST_STAMP) $(DEV_STAMP) $(DOCS_STAMP))
endif
PINS := setup.cfg pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

PYTEST_ARGS ?=
TEST_JOBS ?= 2
BENCHMARK_ARGS ?=
DEMO_OUT ?= demo_out
DEMO_WORK ?= demo_work

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-slurm test-trust test-offline test-html wheel-check docs lint benchmark \
    benchmark-fieldmap benchmark-mismatch benchmark-networks benchmark-sizes benchmark-segmentation benchmark-pediatric \
    examples clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "qsmprep needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): $(PINS) | $(BIN)/python
	$(PIP_INSTALL) -e .
	@printf '%s\n' '$(CURDIR)' > $@

$(TEST_STAMP): $(PINS) $(RUN_STAMP)
	$(PIP_INSTALL) -e '.[test]'
	@touch $@

$(DEV_STAMP): $(PINS) $(TEST_STAMP)
	$(PIP_INSTALL) -e '.[test,dev]'
	@touch $@

install: $(RUN_STAMP)

demo: $(RUN_STAMP)
	$(BIN)/qsmprep bids_examples/cohort $(DEMO_OUT)/cohort participant -w $(DEMO_WORK)/cohort
	$(BIN)/qsmprep bids_examples/oblique $(DEMO_OUT)/oblique participant -w $(DEMO_WORK)/oblique
	@echo; echo "Reports (open them in a browser):"
	@ls -1 $(DEMO_OUT)/*/sub-*.html

# A file of tests is run by one process (what a module shares is made once), each with one thread. With TEST_JOBS=0
# all are run in this process, which -s and --pdb need.
test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(TEST_STAMP)
	$(BIN)/python -m pytest -m "slow or not slow" $(PYTEST_ARGS)

test-slurm: $(TEST_STAMP)
	QSMPREP_TRANSCRIPT=docs/slurm-transcript.md $(BIN)/python -m pytest -m slow tests/cluster $(PYTEST_ARGS)

wheel-check: $(RUN_STAMP)
	PYTHON=$(abspath $(BIN))/python bash tests/wheel/check.sh

test-trust: $(TEST_STAMP)
	QSMPREP_EXAMPLES=100 $(BIN)/python -m pytest -m "slow or not slow" -s tests/trust $(PYTEST_ARGS)

OFFLINE_TESTS ?= tests/pipeline tests/bids tests/cli

test-offline: $(TEST_STAMP)
	OMP_NUM_THREADS=1 unshare -rn $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(OFFLINE_TESTS) $(PYTEST_ARGS)

PAGES := tests/reports/browser

test-html: demo
	cd $(PAGES) && npm install --silent --no-package-lock --no-audit --no-fund
	node $(PAGES)/check.cjs $(DEMO_OUT)/*/sub-*.html

$(DOCS_STAMP): $(PINS) $(RUN_STAMP)
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(RUN_STAMP)
	$(BIN)/python benchmarks/accuracy.py

benchmark-fieldmap: $(RUN_STAMP)
	$(BIN)/python benchmarks/fieldmap.py

benchmark-mismatch: $(RUN_STAMP)
	$(BIN)/python benchmarks/mismatch.py $(BENCHMARK_ARGS)

benchmark-networks: $(RUN_STAMP)
	$(BIN)/python benchmarks/networks.py $(BENCHMARK_ARGS)

benchmark-sizes: $(RUN_STAMP)
	$(BIN)/python benchmarks/sizes.py $(BENCHMARK_ARGS)

benchmark-segmentation: $(RUN_STAMP)
	$(BIN)/python benchmarks/segmentation.py $(BENCHMARK_ARGS)

benchmark-pediatric: $(RUN_STAMP)
	$(BIN)/python benchmarks/pediatric.py $(BENCHMARK_ARGS)

examples: $(RUN_STAMP)
	PYTHON=$(abspath $(BIN))/python sh bids_examples/make.sh

clean:
	rm -rf $(DEMO_OUT) $(DEMO_WORK) build dist site docs/pages/generated docs/pages/images .pytest_cache .ruff_cache .mypy_cache .hypothesis htmlcov .coverage
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf $(PAGES)/node_modules
	rm -f $(RUN_STAMP) $(TEST_STAMP) $(DEV_STAMP) $(DOCS_STAMP)
