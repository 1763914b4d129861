# Every target creates the virtual environment if it is missing.
PYTHON ?= python3
EXTRA ?= cpu
STORE ?= demo-shop/store
BIN = .venv/bin

.PHONY: demo install test check serve docs

demo: .venv/ready
	$(BIN)/vetrina demo

install: .venv/ready

# Distributed by file in the order of files: otherwise files with few tests come last, and the slowest runs alone.
test: .venv/ready
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The generated pages and pictures; `docs/make.py console` needs Chromium and the demo shop.
docs: .venv/ready
	$(BIN)/python docs/make.py settings
	$(BIN)/python docs/make.py pictures

serve: .venv/ready
	$(BIN)/vetrina serve --store $(STORE)

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[$(EXTRA),test,dev]'
	touch $@
