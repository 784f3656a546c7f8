# Two commands do everything from nothing: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.PHONY: help env env-pretrained demo test test-slow test-faults test-slurm coverage forecast lint bench verify accept-code report clean

# Read by envs/bootstrap.sh; an empty TORCH_INDEX means pip's configured index only.
PYTHON ?= python3
LOCK ?= cpu
ifeq ($(LOCK),pretrained)
VENV ?= .venv-pretrained
SCATTER ?= 0
endif
VENV ?= .venv
SCATTER ?= 1
ifneq ($(LOCK),gpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
TORCH_INDEX ?=
export PYTHON VENV LOCK SCATTER TORCH_INDEX

# The work itself.
# nproc would take OMP_NUM_THREADS for the number of cores.
CORES ?= $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
SCALE ?= mini
STUDIES ?=
CONFIG ?=
TARGET ?= demo
SNAKEMAKE_ARGS ?=
PYTEST_ARGS ?=
PYTEST_WORKERS ?= $(CORES)
REASON ?=

# One thread per process: parallelism comes from jobs, and spinning OpenMP threads starve each other.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export MPLBACKEND ?= Agg

# Snakemake starts `python` and `snakemake` by name in its jobs.
export PATH := $(abspath $(VENV))/bin:$(PATH)
comma := ,
studies_list := $(subst $() ,$(comma),$(strip $(subst $(comma), ,$(STUDIES))))
config_args := scale=$(SCALE) $(if $(studies_list),'studies=[$(studies_list)]') $(CONFIG)
# --config takes all words that follow, so it comes last and the target first.
snakemake = snakemake $(TARGET) --cores $(CORES) --rerun-incomplete $(1) --config $(config_args)

# What runs, how far, how long still, in place of snakemake's pages about single jobs; VERBOSE=1 for these.
condensed = $(if $(VERBOSE),,2>&1 | python -m mlip_studies progress --scale $(SCALE))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo "Settings: STUDIES=$(if $(STUDIES),$(STUDIES),all enabled) SCALE=$(SCALE) CORES=$(CORES) TARGET=$(TARGET)" \
	  "CONFIG=\"$(CONFIG)\" LOCK=$(LOCK) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) SCATTER=$(SCATTER)"

env: ## virtual environment with the pinned packages (all other targets make it first)
	@bash envs/bootstrap.sh

env-pretrained: LOCK := pretrained
env-pretrained: VENV := .venv-pretrained
env-pretrained: SCATTER := 0
env-pretrained: ## .venv-pretrained, for published MACE and Orb; use it as make demo LOCK=pretrained
	@bash envs/bootstrap.sh

demo: env ## the enabled studies at mini scale, then report.html (STUDIES=krcelic for one)
	@start=$$SECONDS; \
	$(call snakemake,$(SNAKEMAKE_ARGS)) $(condensed); \
	echo "[demo] pipeline: $$((SECONDS - start)) s"
	@$(MAKE) report-if-changed

# The report is rebuilt only when a result or a caption is newer than it, or when it was made for other settings.
.PHONY: report-if-changed
report-if-changed:
	@settings="$(TARGET) $(config_args)"; \
	if [ -f report.html ] && [ "$$(cat .snakemake/report-settings 2>/dev/null)" = "$$settings" ] && \
	   [ -z "$$(find results/$(SCALE) workflow/report Snakefile -newer report.html -type f \
	            -not -path '*/.state/*' -not -path '*/logs/*' -not -path '*/benchmarks/*' -print -quit 2>/dev/null)" ]; then \
	  echo "[demo] nothing changed; report: $(abspath report.html)"; \
	else \
	  $(MAKE) report; \
	fi

report: env ## report.html from the results that are there
	@start=$$SECONDS; \
	$(call snakemake,--report report.html --report-stylesheet workflow/report/report.css); \
	printf '%s\n' "$(TARGET) $(config_args)" > .snakemake/report-settings; \
	echo "[report] $$((SECONDS - start)) s; open $(abspath report.html)"

test: env ## unit tests and a tiny end-to-end slice of every study
	@python -m pytest -p tests.reference_summary -m "not slow and not slurm and not faults" -n $(PYTEST_WORKERS) --dist loadfile --durations=10 $(PYTEST_ARGS)

test-slow: env ## the long tests
	@python -m pytest -p tests.reference_summary -m "slow and not slurm and not faults" --durations=20 --timeout 3600 $(PYTEST_ARGS)

test-faults: env ## kills, full disks, damaged and hostile files, two runs at once
	@python -m pytest tests/faults -m faults -n 2 --dist worksteal --durations=10 --timeout 600 $(PYTEST_ARGS)

test-slurm: env ## a slice of the mini workflow through a real one-node Slurm on this machine
	@bash tests/slurm/run.sh

coverage: env ## unit tests with coverage, and a table by subpackage (DOCUMENT=docs/testing.md puts it there)
	@mkdir -p results && rm -f results/.coverage results/.coverage.*
	@python -m coverage run -m pytest tests/unit -m "not slow and not slurm" -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)
	@python -m coverage combine -q
	@python tests/coverage_table.py $(if $(DOCUMENT),--document $(DOCUMENT))

forecast: env ## what TARGET would cost at SCALE, before it runs (docs/forecast.md)
	@python -m mlip_studies forecast $(TARGET) --config $(config_args)

lint: env ## ruff, mypy --strict, snakefmt, snakemake --lint, spelling
	@ruff check .
	@ruff format --check .
	@mypy
	@snakefmt --check --compact-diff Snakefile workflow
	@snakemake --lint --config scale=mini
	@shellcheck envs/*.sh tests/slurm/*.sh .ci/run
	@codespell

bench: env ## the timings of benchmarks/RESULTS.md
	@mkdir -p results
	python benchmarks/bench_models.py --output results/bench_models.jsonl --modes baseline eager --models \
	  so3krates gemnet_t schnet dimenet_plus_plus se3_transformer egnn egnn_rff_as_coded
	python benchmarks/bench_models.py --output results/bench_models.jsonl --modes baseline eager --models gemnet_q \
	  --tasks train --batch 8 # its baseline takes some 20 GB at batch 32
	python benchmarks/bench_data.py
	python benchmarks/bench_md.py --threads 1
	python benchmarks/bench_dft.py

verify: env ## check every artefact against its checksum; corrupt files are moved aside
	@python -m mlip_studies verify

accept-code: env ## record that a code change does not alter results: make accept-code REASON="..."
	@if [ -z "$${REASON:-}" ]; then echo 'say why: make accept-code REASON="only renamed a variable"' >&2; exit 2; fi
	@python -m mlip_studies accept-code --reason "$$REASON"

clean: ## remove caches and reports; results and the environment stay
	@rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache report.html report.zip
	@find workflow tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	@echo "kept: results/ (delete it for a fresh start) and $(VENV) (delete it to reinstall)"

export REASON
