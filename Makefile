# `make help` lists the targets. One environment, .venv, built from a lock under docker/.

PYTHON      ?= python3
VENV        ?= .venv
# cpu or gpu: which lock is installed.
DEVICE      ?= cpu
# Address of an index with the CPU build of torch; needed where pip does not know one already.
TORCH_INDEX ?=
PYTEST_ARGS ?=

TORCH_VERSION := $(shell sed -n 's/^torch==//p' docker/requirements.in)
UV_VERSION    := 0.13.9
BIN           := $(VENV)/bin
LOCK          := docker/requirements-$(DEVICE).lock
STAMP         := $(VENV)/.installed-$(DEVICE)
# On GPUs the registry's own build of torch is the right one.
TORCH         := torch==$(TORCH_VERSION)$(if $(filter cpu,$(DEVICE)),+cpu)

.PHONY: help setup quickstart check test test-all faults soak benchmark fuzz lock reference clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP)  ## create the environment in .venv (DEVICE=gpu for GPUs)

$(STAMP): $(LOCK) docker/requirements.in pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo 'The venv module is missing; on Debian: apt install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo 'Installing $(TORCH) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)' 2>$(VENV)/torch.log \
	  || $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps \
	    $(if $(filter cpu,$(DEVICE)),--torch-backend cpu) '$(TORCH)' 2>>$(VENV)/torch.log \
	  || { printf '%s\n' 'Could not install $(TORCH) (details: $(VENV)/torch.log).' \
	    'pip must know an index with this build: give it the CPU wheel index that is named on the' \
	    '"Start locally" page of PyTorch, or set PIP_FIND_LINKS to a folder that holds the wheel:' '' \
	    '    make $(or $(MAKECMDGOALS),setup) TORCH_INDEX=<address of the index>' '' >&2; exit 1; }
	@echo 'Installing $(LOCK) ...'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --requirement $(LOCK)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@test $(DEVICE) != cpu || $(BIN)/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
	  || echo 'warning: vLLM needs the system library libnuma (Debian, Ubuntu: apt install libnuma1)' >&2
	@rm -f $(VENV)/.installed-*
	@touch $@

quickstart: setup  ## run the main job on this machine: data to report, 9 to 13 minutes on 2 cores once installed
	$(BIN)/python jobs/train_repo.py --config jobs/configs/quickstart.yaml --resume

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Threads that wait sleep: tests share the cores with the actors that they start.
test test-all: export OMP_WAIT_POLICY := PASSIVE
test: check  ## checks and tests, without the slow and the GPU ones
	$(BIN)/pytest -n 2 --dist loadscope -m 'not slow and not gpu' $(PYTEST_ARGS)

test-all: check  ## all tests that this machine can run
	$(BIN)/pytest $(PYTEST_ARGS)

faults: setup  ## 50 seeded kills and freezes in one run; report in runs/faults.md
	@mkdir -p runs
	REPO_RAY_FAULTS_REPORT=runs/faults.md OMP_WAIT_POLICY=PASSIVE \
	  $(BIN)/pytest -s -k many_faults tests/faults $(PYTEST_ARGS)

soak: setup  ## 2,000 steps with a fake engine, 1,000 with everything real; pages in runs/soak-*.html
	@mkdir -p runs
	REPO_RAY_SOAK_REPORTS=$(CURDIR)/runs OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest tests/soak $(PYTEST_ARGS)

# TRL sees the packages of this environment and has its own beside them.
TRL := .venv-trl
$(TRL)/.installed: docker/requirements-trl.lock $(STAMP)
	@rm -rf $(TRL)
	@$(BIN)/python -m venv --without-pip $(TRL)
	@$(BIN)/python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])' \
	  > $$($(TRL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	@echo 'Installing docker/requirements-trl.lock ...'
	@$(BIN)/uv pip install --quiet --python $(TRL)/bin/python --no-deps --requirement docker/requirements-trl.lock
	@touch $@

PARTS ?=
benchmark: $(TRL)/.installed  ## time every part (or PARTS='learner grpo') beside what it replaces; table in runs/benchmark
	REPO_RAY_TRL_PYTHON=$(TRL)/bin/python $(BIN)/python jobs/benchmark.py $(PARTS)

FUZZ_SECONDS ?= 300
fuzz: setup  ## coverage-guided fuzzing of every loader (installs atheris)
	$(BIN)/python -m pip install --quiet 'atheris>=3'
	cd tests/fuzz && ../../$(BIN)/python coverage_guided.py -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096

# The locks hold every version but torch's, which docker/requirements.in pins: it is the one
# package whose build depends on the machine. The GPU lock has the stricter pins, so it is
# resolved first and the CPU lock takes its versions.
COMPILE = $(BIN)/uv pip compile --quiet pyproject.toml docker/requirements.in --extra dev \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate \
  --no-emit-package torch --override docker/overrides.txt --custom-compile-command 'make lock'

# The CPU build of torch: from PyTorch's index, or from the folder that UV_FIND_LINKS names.
lock:  ## resolve pyproject.toml and docker/requirements.in into the two locks
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); }
	env -u UV_FIND_LINKS $(COMPILE) --extra gpu --output-file docker/requirements-gpu.lock >/dev/null
	$(COMPILE) --extra cpu $(if $(UV_FIND_LINKS),,--torch-backend cpu) --override docker/overrides-cpu.txt --constraint docker/requirements-gpu.lock \
	  --output-file docker/requirements-cpu.lock >/dev/null
	$(BIN)/uv pip compile --quiet docker/requirements-trl.in --no-deps --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file docker/requirements-trl.lock >/dev/null

reference: setup  ## write jobs/configs/REFERENCE.md from the settings
	$(BIN)/repo-ray config > jobs/configs/REFERENCE.md

clean:  ## remove the environment and the caches, never runs/
	rm -rf $(VENV) $(TRL) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
