PYTHON311 ?= python3.11
VENV := .venv
PYTHON := $(VENV)/bin/python
CHECKPOINTS := flux-tiny sdxl-tiny
REPOSITORIES := $(CHECKPOINTS:%=build/%-cpu)
TYPED := families diffusion export gateway serving

.DEFAULT_GOAL := help
.PHONY: help setup repositories demo serve test test-slow engines-check gpu-check bench check clean $(CHECKPOINTS:%=export-%)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

setup: $(VENV)/.installed ## make .venv with the pinned dependencies (needs python3.11 and libpython3.11)

$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON311) >/dev/null || { echo "error: python3.11 is missing:" \
		"apt-get install python3.11 python3.11-venv libpython3.11" >&2; exit 1; }
	@$(PYTHON311) -c "import ensurepip" 2>/dev/null || { echo "error: Python's venv module is missing:" \
		"apt-get install python3.11-venv" >&2; exit 1; }
	@$(PYTHON311) -c "from serving.machine import check; check()"
	$(PYTHON311) -m venv $(VENV)
	$(PYTHON) -m pip install --disable-pip-version-check --requirement requirements.lock
	$(PYTHON) -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

repositories: setup ## export the tiny checkpoints for this machine, unless that has been done
	@$(MAKE) --no-print-directory --jobs=2 $(CHECKPOINTS:%=export-%)

$(CHECKPOINTS:%=export-%): export-%: setup
	$(PYTHON) -m export --checkpoint assets/checkpoints/$* --target cpu --output build/$*-cpu

demo: repositories ## start all, draw out/demo.png and from it out/demo-image-to-image.png, stop all
	$(PYTHON) -m gateway.demo --repository $(REPOSITORIES) --output out

serve: repositories ## Triton and the gateway in the foreground, until Ctrl-C
	$(PYTHON) -m gateway --embedded $(REPOSITORIES)

test: repositories ## run the tests, two at a time
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses 2 --dist loadfile

test-slow: setup ## run the tests that take minutes
	$(PYTHON) -m pytest -m "slow and not gpu"

engines-check: setup ## compile every engine of the A100 target from the tiny checkpoints, without a GPU
	$(PYTHON) -m export.engines_check

gpu-check: setup ## steps of true-size denoisers on the GPU beside their floor; tiny ones where there is none
	$(PYTHON) -m benchmarks.gpu_check

bench: repositories ## measure everything, out/bench/report.html (up to 20 minutes; quiet machines only)
	$(PYTHON) -m benchmarks

check: setup ## lint, format, types, generated files, house rules
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy $(TYPED)
	$(PYTHON) -m families --check
	$(PYTHON) -m benchmarks.inputs --check
	$(PYTHON) -m pytest --quiet tests/test_house.py

clean: ## remove what is built, and the caches; .venv stays
	rm -rf build out .mypy_cache .pytest_cache .ruff_cache .hypothesis
