# Two commands for a newcomer: `make demo` and `make test`. `make help` lists all of them.
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV := $(ROOT).venv
PY := $(VENV)/bin/python
PYTHON ?= python3
PIP := $(PY) -m pip install --disable-pip-version-check -c $(ROOT)constraints.txt
INPUTS := $(ROOT)pyproject.toml $(ROOT)constraints.txt

.PHONY: help demo test test-cluster test-soak lint format benchmarks clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(ROOT)Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(VENV)/.installed ## corpus, training, report and a served denoiser, start to finish; SPEECH=dir NOISE=dir for your own sounds
	@$(PY) -m jobs.demo --out "$(or $(OUT),$(ROOT)demo)" $(if $(SPEECH),--speech "$(SPEECH)") $(if $(NOISE),--noise "$(NOISE)") $(ARGS)

# Two runs at once, since most of a test is waiting for processes to start: $(1) beside $(2), whose output comes first.
side_by_side = log=$$(mktemp) && trap 'rm -f "$$log"; kill $$beside 2>/dev/null || :' EXIT && \
	{ { $(1); } >"$$log" 2>&1 & } && beside=$$! && \
	{ $(2); code=$$?; wait $$beside || code=$$?; cat "$$log"; exit $$code; }
PYTEST := $(PY) -m pytest --durations=20

# Two halves that take about as long as each other. With ARGS, one run of just that.
QUICK_HALF := tests/ww_data tests/ww_models tests/jobs tests/test_benchmarks.py
test: $(VENV)/.installed-dev ## lint, types and the tests that need nothing but Python (15 minutes at most on 2 cores)
ifeq ($(ARGS),)
	@cd $(ROOT) && $(VENV)/bin/ruff check . && $(call side_by_side, \
	$(MAKE) --no-print-directory lint && $(PYTEST) -m "not cluster" $(QUICK_HALF), \
	$(PYTEST) -m "not cluster" $(QUICK_HALF:%=--ignore=%))
else
	@$(MAKE) --no-print-directory lint
	@cd $(ROOT) && $(PYTEST) -m "not cluster" $(ARGS)
endif

# Two halves that take about as long as each other.
HALF := tests/cluster/serving tests/cluster/evaluation tests/jobs tests/cluster/tracking tests/cluster/test_preparation.py \
	tests/test_benchmarks.py
test-cluster: $(VENV)/.installed-dev ## kills, several nodes, a browser: slower, needs chromium and prometheus (30 minutes at most)
ifeq ($(ARGS),)
	@cd $(ROOT) && $(call side_by_side, \
	$(PYTEST) -m "cluster and not soak" $(HALF), \
	$(PYTEST) -m "cluster and not soak" $(HALF:%=--ignore=%))
else
	@cd $(ROOT) && $(PYTEST) -m cluster $(ARGS)
endif

test-soak: $(VENV)/.installed-dev ## further forms of the same faults, panels with a real Prometheus, benchmarks (an hour or more)
	@cd $(ROOT) && $(PYTEST) -m soak $(ARGS)

lint: $(VENV)/.installed-dev ## ruff and mypy
	@cd $(ROOT) && $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: $(VENV)/.installed-dev ## rewrite the code in its one format
	@cd $(ROOT) && $(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

clean: ## remove the environment and all caches; demo/ and runs/ are yours and stay
	@cd $(ROOT) && rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or 3.12, or say make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 13)))' || { echo "error: $$($(PYTHON) --version) is not supported; install Python 3.11 or 3.12, or say make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "making a virtual environment in .venv"
	@$(PYTHON) -m venv $(VENV)

# A stamp is written only after pip succeeded, so an interrupted installation is taken up again.
$(VENV)/.installed: $(VENV)/bin/python $(INPUTS)
	@echo "installing pinned packages (about 3 minutes, 2 GB)"
	@$(PIP) -e "$(ROOT)[synthetic]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) -q -e "$(ROOT)[synthetic,dev]"
	@touch $@
