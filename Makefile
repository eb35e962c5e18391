# make run    detect objects in the bundled clip; results in out/
# make test   the tests
# make audit release   what docs/releasing.md is about
# Only `setup` installs; the others call it when it is missing or out of date.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.framerail-setup

# Release tools have an environment of their own, so that they are no part of what is tested.
RELEASE := .venvs/release

.PHONY: run test ap setup lint type bench audit release clean
.DELETE_ON_ERROR:

run: $(STAMP)
	@mkdir -p out
	$(BIN)/framerail run sample: --video out/sample.mp4 --jsonl out/sample.jsonl --summary out/summary.json
	@echo "annotated video: out/sample.mp4   detections: out/sample.jsonl   figures: out/summary.json"

# Three at a time: much of the suite waits, for cameras that fall silent and for processes that end (two cores:
# two at a time 7:15, three 5:22).
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Every model on every labelled picture: some minutes.
ap: $(STAMP)
	FRAMERAIL_ALL_PICTURES=1 $(BIN)/python -m pytest tests/test_eval_command.py -k known_ap

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.line

# Exit code 0 only where the advisory database has answered for every pinned version.
audit: $(RELEASE)/.made
	$(RELEASE)/bin/python tools/audit.py constraints.txt

release: $(RELEASE)/.made
	PYTHON="$(PYTHON)" sh tools/release.sh $(RELEASE) .venvs/product

$(RELEASE)/.made: tools/release.txt
	$(PYTHON) -m venv --clear $(RELEASE)
	$(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet --requirement tools/release.txt
	@touch $@

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup.sh
	PYTHON="$(PYTHON)" sh tools/setup.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
