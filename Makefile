# Two commands matter: `make demo` and `make test`. Each sets everything up by itself and may be run again.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check unit lint bench chaos

#: The folder of text files that the demo publishes, and more arguments for `onelane demo` (such as --exit).
DEMO_DIR ?= docs
DEMO_ARGS ?=
#: More arguments for pytest.
PYTEST_ARGS ?=
#: Test processes beside each other; a file's tests stay in one. Most of the suite waits for servers and processes.
TEST_PROCESSES ?= 3
#: Arguments for the broker's benchmark (such as --quick).
BENCH_ARGS ?=
#: More arguments for the chaos run (see its --help).
CHAOS_ARGS ?=
# The tests start Python hundreds of times: without compiled modules each start takes half a second more.
unexport PYTHONDONTWRITEBYTECODE
UNIT := not (integration or processes or browser or wordpress or slow)
PYTEST = .venv/bin/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder --durations=20

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Publish one post per text file for five accounts, live (DEMO_DIR=folder DEMO_ARGS=--exit)
	@deploy/bootstrap runtime
	@exec .venv/bin/onelane demo "$(DEMO_DIR)" $(DEMO_ARGS)

test: ## Every kind of test on real servers and a real browser, with a kill of each kind (10 minutes on two cores)
	@deploy/bootstrap test
	$(PYTEST) -m "not campaign or sample" $(PYTEST_ARGS)

test-all: ## What CI runs: linters, types, layers, and all tests with the long campaigns (25 minutes on two cores)
	@deploy/bootstrap test
	@$(MAKE) --no-print-directory lint
	$(PYTEST) $(PYTEST_ARGS)

check: ## Linters, types, layers and unit tests, within a minute
	@deploy/bootstrap dev
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

unit:
	.venv/bin/python -m pytest -q -m "$(UNIT)" $(PYTEST_ARGS)

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: ## Benchmarks, both sides in one run, with ratios
	@deploy/bootstrap dev
	.venv/bin/python -m tests.benchmarks.broker $(BENCH_ARGS)
	.venv/bin/python -m tests.benchmarks.whole_path
	.venv/bin/python -m tests.benchmarks.posting
	.venv/bin/python -m tests.benchmarks.isolation_cost
	.venv/bin/python -m tests.benchmarks.step_logs
	.venv/bin/python -m tests.benchmarks.rebuild

chaos: ## Every pair of failures of a step's processes; then attack the whole service on both databases (CHAOS_ARGS=--seed=N)
	@deploy/bootstrap dev
	.venv/bin/python -m tests.orchestrator.isolation.failure_pairs --all
	.venv/bin/python -m tests.chaos $(CHAOS_ARGS)
