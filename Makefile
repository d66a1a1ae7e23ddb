# Everything sets itself up: the first run makes a virtual environment in .venv, later runs reuse it.
#   make demo PYTHON=python3.12       another Python (3.10 or later) for a new environment
#   make test ARGS="-k policy -x"     more arguments for the command behind a target
#   make test JOBS=8                  tests in more processes than two

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
MIDDLE_VENV ?= .venv-middle
NEWEST_VENV ?= .venv-newest
LITELLM_VENV ?= .venv-litellm
VLLM_VENV ?= .venv-vllm
ARGS ?=
# Processes that `make test` and `make test-all` share the test files out to; one torch thread in each of them.
JOBS ?= 2

# The demo and the tests bring their data along: nothing may reach for a model hub.
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-pretrained demo-web check format test test-all test-matrix test-oldest test-middle test-newest test-quant test-lmms test-serve test-vllm test-web clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Adopt the environment in $(1) if it works, else make it anew; then install the pins in $(2).
# Installing satisfied pins again takes seconds, and the stamp saves even those.
define install
	@$(1)/bin/python -m pip --version > /dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "No usable Python: expected 3.10 or later, got '$$($(PYTHON) --version 2>&1)'." \
	         "Name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Making a virtual environment in $(1)"; \
	  $(PYTHON) -m venv --clear $(1) || { \
	    echo "No virtual environment: '$(PYTHON) -m venv' failed." \
	         "On Debian and Ubuntu install python3-venv, then run make again." >&2; exit 1; }; }
	$(1)/bin/python -m pip install --disable-pip-version-check -r $(2)
	$(1)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
endef

# A package that only some tests want, in a folder of its own and without its dependencies.
define install_aside
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(1) -r $(2)
	@touch $@
endef

$(VENV)/.run: pyproject.toml requirements/run.txt
	$(call install,$(VENV),requirements/run.txt)

$(VENV)/.installed: pyproject.toml requirements/run.txt requirements/serve.txt requirements/dev.txt
	$(call install,$(VENV),requirements/dev.txt)

$(OLDEST_VENV)/.installed: pyproject.toml requirements/oldest.txt
	$(call install,$(OLDEST_VENV),requirements/oldest.txt)

$(MIDDLE_VENV)/.installed: pyproject.toml requirements/run.txt requirements/serve.txt requirements/dev.txt
	$(call install,$(MIDDLE_VENV),requirements/dev.txt)

$(MIDDLE_VENV)/.middle: $(MIDDLE_VENV)/.installed requirements/middle.txt
	$(MIDDLE_VENV)/bin/python -m pip install --disable-pip-version-check -r requirements/middle.txt
	@touch $@

$(NEWEST_VENV)/.installed: pyproject.toml requirements/run.txt requirements/dev.txt
	$(call install,$(NEWEST_VENV),requirements/dev.txt)

$(VENV)/llava/.installed: requirements/llava.txt | $(VENV)/.installed
	$(call install_aside,$(VENV)/llava,requirements/llava.txt)

$(VENV)/demo/.installed: requirements/demo.txt | $(VENV)/.installed
	$(call install_aside,$(VENV)/demo,requirements/demo.txt)

$(VENV)/quant/.installed: requirements/quant.txt | $(VENV)/.installed
	$(call install_aside,$(VENV)/quant,requirements/quant.txt)

$(VENV)/ray/.installed: requirements/ray.txt | $(VENV)/.installed
	$(call install_aside,$(VENV)/ray,requirements/ray.txt)

$(VENV)/lmms/.installed: requirements/lmms.txt | $(VENV)/.installed
	$(call install_aside,$(VENV)/lmms,requirements/lmms.txt)

# A proxy in front of ours pins other releases of what both need: an environment without anything of ours.
$(LITELLM_VENV)/.installed: requirements/litellm.txt | $(VENV)/.installed
	$(VENV)/bin/python -m venv --clear $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@touch $@

# So does vLLM, in whose process ours runs.
$(VLLM_VENV)/.installed: pyproject.toml requirements/vllm.txt
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements/vllm.txt
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

venv: $(VENV)/.installed ## only the virtual environment with everything installed

demo: $(VENV)/.run ## the whole tour: attack, train, evaluate, toggle, save, detach (about 6 minutes)
	$(VENV)/bin/safety-modules demo $(ARGS)

demo-pretrained: $(VENV)/.run ## the same tour with the shipped adapter, no training (about 1 minute)
	$(VENV)/bin/safety-modules demo --pretrained $(ARGS)

demo-web: $(VENV)/.installed $(VENV)/demo/.installed ## a page to click: base and guarded side by side, on this machine alone
	PYTHONPATH=$(abspath $(VENV)/demo) $(VENV)/bin/safety-modules demo --web $(ARGS)

check: $(VENV)/.installed ## what CI checks: format, lint, types, import layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

format: $(VENV)/.installed ## put the code into the form that check expects
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

test: $(VENV)/.installed $(VENV)/llava/.installed $(VENV)/demo/.installed ## what CI tests: everything but the tests marked slow
	PYTHONPATH=$(abspath $(VENV)/llava):$(abspath $(VENV)/demo) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(VENV)/.installed $(VENV)/llava/.installed $(VENV)/demo/.installed ## every test, the slow ones too; the page of demo --web in a browser: test-web
	PYTHONPATH=$(abspath $(VENV)/llava):$(abspath $(VENV)/demo) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not web" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-matrix: test-oldest test-middle ## the tests marked matrix, with two older sets of libraries

test-oldest: $(OLDEST_VENV)/.installed ## ... with the oldest supported ones (transformers 4.57): CI runs this too
	$(OLDEST_VENV)/bin/python -m pytest -m "matrix and not slow" $(ARGS)

test-middle: $(MIDDLE_VENV)/.middle ## ... with transformers 5.17
	$(MIDDLE_VENV)/bin/python -m pytest -m "matrix and not slow" $(ARGS)

# PIP_CONSTRAINT=file keeps some of them back, such as a CPU build of torch.
test-newest: $(NEWEST_VENV)/.installed ## ... with today's newest releases of everything, whatever the pins: before a release
	$(NEWEST_VENV)/bin/python -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager -e ".[data,eval,dev]"
	$(NEWEST_VENV)/bin/python -m pytest -m "matrix and not slow" $(ARGS)

test-quant: $(VENV)/.installed $(VENV)/quant/.installed ## 4 and 8 bit bases (bitsandbytes, on the CPU)
	PYTHONPATH=$(abspath $(VENV)/quant) $(VENV)/bin/python -m pytest tests/backbones/test_bases_quantised.py tests/training/test_trainer_quantised.py tests/cli/test_cli_quantised.py $(ARGS)

test-lmms: $(VENV)/.installed $(VENV)/lmms/.installed ## our model and our tasks inside lmms-eval
	PYTHONPATH=$(abspath $(VENV)/lmms) $(VENV)/bin/python -m pytest tests/evaluation/test_lmms_arguments.py tests/evaluation/test_lmms_tasks.py tests/evaluation/test_lmms_model.py $(ARGS)

test-serve: $(VENV)/.installed $(LITELLM_VENV)/.installed $(VENV)/ray/.installed ## litellm as a proxy in front of our server; replicas by Ray Serve, one of them killed
	LITELLM=$(abspath $(LITELLM_VENV))/bin/litellm PYTHONPATH=$(abspath $(VENV)/ray) $(VENV)/bin/python -m pytest tests/serving/test_litellm.py tests/serving/test_replicas.py $(ARGS)

test-vllm: $(VLLM_VENV)/.installed ## the plugin in a real vLLM, on the CPU (experimental)
	PYTHONPATH=$(abspath tests/vllm_cpu) OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/serving/test_vllm_contract.py tests/serving/test_vllm_end_to_end.py $(ARGS)

test-web: $(VENV)/.installed $(VENV)/demo/.installed ## the page of demo --web in Chromium, at two widths
	PYTHONPATH=$(abspath $(VENV)/demo) $(VENV)/bin/python -m pytest tests/web $(ARGS)

clean: ## remove the virtual environments and all caches (not runs/)
	rm -rf $(VENV) $(OLDEST_VENV) $(MIDDLE_VENV) $(NEWEST_VENV) $(LITELLM_VENV) $(VLLM_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
