# `make` lists the targets. The first of them makes .venv; after that nothing is installed again until pyproject.toml,
# setup.py or the constraints change, and nothing touches the network.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# A process for each core, and whoever is done takes tests from whoever is not; one where pytest-xdist is not to be had.
# ARGS comes last, so it has the last word: ARGS="-n 0" for one process, ARGS="-m gpu" for another choice; --pdb means -n 0.
TEST = $$($(BIN)/python tools/spread_tests.py)
INSTALL := pyproject.toml setup.py constraints/cpu.txt tools/make_venv.py

# Compiled files are kept, whatever the caller's environment says: the tests start hundreds of processes that import them.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo app serve test test-all lint check format docs test-matrix test-cpus test-newest test-lmms bench-accuracy bench-choices bench-glimpse bench-speed bench-choose bench-long test-app train-glimpse-tiny wheel gpu-check gpu-bench clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." is passed on: make test ARGS="-k tokens", make demo ARGS="--compare"; PYTHON=python3.12 chooses one.'

demo: .venv/base.stamp  ## Answer a question about the bundled clip with pruned tokens
	@$(BIN)/python demo.py $(ARGS)

app: .venv/base.stamp  ## Open a page for the browser, in a venv of its own: ask, and see which tokens were kept
	@$(BIN)/python tools/make_app_venv.py page
	@.venv-app/bin/python demo.py --app $(ARGS)

serve: .venv/serve.stamp  ## Serve OpenAI's chat API with the bundled model on http://127.0.0.1:8000/v1
	@$(BIN)/python -m prunevid_qwen.cli serve --media_root prunevid_qwen/bundled/clips $(ARGS)

test: .venv/dev.stamp  ## Run the tests but the nightly ones (about 5 minutes on two cores)
	@$(BIN)/python -m pytest $(TEST) -m "not nightly" $(ARGS)

test-all: .venv/nightly.stamp  ## Run all tests, the nightly ones too: before a release, and after a change to what they are about
	@$(BIN)/python -m pytest $(TEST) $(ARGS)
	@$(BIN)/python tools/test_app.py

lint: .venv/dev.stamp  ## ruff check, ruff format --check, mypy
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

check: lint test  ## lint, then test: what to run before a commit

format: .venv/dev.stamp  ## Let ruff rewrite what it can
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

docs: .venv/dev.stamp  ## Build the site into site/; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

test-matrix: .venv/dev.stamp  ## Run the tests under each supported transformers (writes eval/results/test_matrix.json)
	@$(BIN)/python tools/test_matrix.py $(ARGS)

test-cpus: .venv/dev.stamp  ## Run the tests as other CPUs and a busy machine would (writes eval/results/test_cpus.json)
	@$(BIN)/python tools/test_cpus.py $(ARGS)

test-newest: .venv/dev.stamp  ## Run the core's oracles under the newest transformers in the registry, if it is not the pinned one
	@$(BIN)/python tools/test_newest.py $(ARGS)

test-lmms: .venv/dev.stamp  ## Run lmms-eval's MVBench through our plug-in, in a venv of its own (writes eval/results/lmms_eval.json)
	@$(BIN)/python tools/test_lmms.py $(ARGS)

test-app: .venv/dev.stamp  ## Drive the page of `make app` in the distribution's Chromium, where there is one
	@$(BIN)/python tools/test_app.py $(ARGS)

bench-accuracy: .venv/dev.stamp  ## Accuracy of every method at equal tokens (ARGS=--quick; writes runs/moving_shapes)
	@$(BIN)/python eval/moving_shapes.py $(ARGS)

bench-choices: .venv/dev.stamp  ## Every option's values at equal tokens (ARGS=--quick; writes runs/choices)
	@$(BIN)/python -m research.choices_run $(ARGS)

bench-glimpse: .venv/dev.stamp  ## The glimpse beside attention, controls and true boxes (ARGS=--quick; writes runs/glimpse)
	@$(BIN)/python -m research.glimpse_run $(ARGS)

bench-speed: .venv/dev.stamp  ## Time, memory, FLOPs with and without pruning (ARGS=--quick; writes runs/efficiency)
	@$(BIN)/python eval/efficiency.py $(ARGS)

bench-choose: .venv/dev.stamp  ## Time to choose of every method at a 7B's width (writes eval/results/choose_cost.json)
	@$(BIN)/python -m research.choose_cost $(ARGS)

bench-long: .venv/dev.stamp  ## An hour of video: time and host memory, in minutes (writes runs/long_video.json)
	@$(BIN)/python -m research.long_video $(ARGS)

train-glimpse-tiny: .venv/dev.stamp  ## Train the bundled model's glimpse predictor (writes runs/glimpse_tiny)
	@$(BIN)/python train/glimpse.py --recipe glimpse_tiny --out runs/glimpse_tiny --threads 1 $(ARGS)

wheel:  ## Build sdist and wheel into dist/, check them, and run the wheel in an empty environment
	@$(PYTHON) tools/make_wheel.py $(ARGS)

gpu-check:  ## Kernels and pruned path on this machine's GPU, under python3 as it is (writes runs/gpu_check.json)
	@$(PYTHON) tools/gpu_check.py $(ARGS)

gpu-bench:  ## Time, memory, FLOPs of 7B and 3B shapes on a GPU, the vision encoder's part apart (writes eval/results/*gpu*)
	@$(PYTHON) tools/gpu_bench.py $(ARGS)

clean:  ## Remove .venv, .venv-matrix, .venv-lmms, .venv-app, .venv-wheel and every cache
	rm -rf .venv .venv-matrix .venv-lmms .venv-app .venv-wheel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Order-only chains keep two pips from running at once under make -j.
.venv/base.stamp: $(INSTALL)
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here: install Python 3.10 to 3.13, or name one: make PYTHON=..." >&2; exit 3; }
	@$(PYTHON) tools/make_venv.py base

.venv/serve.stamp: .venv/base.stamp
	@$(PYTHON) tools/make_venv.py serve

.venv/nightly.stamp: .venv/dev.stamp
	@$(PYTHON) tools/make_venv.py nightly

.venv/dev.stamp: .venv/base.stamp
	@$(PYTHON) tools/make_venv.py dev
