# Both commands set up everything they need in $(VENV) and re-use what is there. D2_SOURCE=PATH_OR_URL
# takes another Detectron2 than 0.6 (with a VENV of its own, or the environment is rebuilt).
#   make demo        train, evaluate and picture a Mask R-CNN on the built-in synthetic set
#   make test        run the tests, in parallel; a few minutes
#   make test-all    run those marked slow, too: trainings and long property tests
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
D2_SOURCE ?=
# Half-way through, a worker without tests takes some of another's; tests of one module share fixtures.
PARALLEL ?= -n auto --dist worksteal
export VENV

.PHONY: demo test test-all env lint format typecheck docs clean

demo: env
	$(BIN)/python -m mrcnn_ext.demo $(ARGS)

test: env
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-all: env
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

env:
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) $(if $(D2_SOURCE),--source $(D2_SOURCE))

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: env
	$(BIN)/mypy mrcnn_ext tools

docs: env
	$(BIN)/python -m mrcnn_ext.config.reference > docs/config.md

clean:
	rm -rf build dist output *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
