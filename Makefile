# Every target sets up what it needs: a virtual environment in .venv and the engine, built into it.
# Wanted on the machine: Rust (stable), Python >= 3.11, a C compiler. Another Python: make test PYTHON=/path/to/python

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs bench clean setup build release

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# maturin calls pip, which lists all that is installed already.
export PIP_QUIET := 1
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# A user's own paths must not bring other packages in.
unexport PYTHONPATH PYTHONHOME CONDA_PREFIX

ENGINE := Cargo.toml Cargo.lock pyproject.toml $(shell find src -type f)

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: release ## Run a research workflow here, with scripted models: no key, no network.
	@$(BIN)/cmbagent demo --work-dir demo_output

test: build ## Run the tests of the engine and of the package.
	@mkdir -p $(CARGO_TARGET_DIR)
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run 2>&1 | tee $(CARGO_TARGET_DIR)/rust-tests.log; \
	  cargo test --doc 2>&1 | tee -a $(CARGO_TARGET_DIR)/rust-tests.log; \
	else \
	  cargo test 2>&1 | tee $(CARGO_TARGET_DIR)/rust-tests.log; \
	fi
	@$(BIN)/python -m pytest -q 2>&1 | tee $(CARGO_TARGET_DIR)/python-tests.log
	@echo; echo "Rust:   $$(grep -E '^ *Summary|^test result' $(CARGO_TARGET_DIR)/rust-tests.log | tr -s ' ' | paste -sd ';' -)"
	@echo "Python: $$(tail -n 1 $(CARGO_TARGET_DIR)/python-tests.log)"

lint: build ## Check format, lints, types, stubs and the tree of dependencies.
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check python tests examples benches docs
	$(BIN)/ruff check python tests examples benches docs
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_stubs.py
	@tree=$$(cargo tree --features python --edges normal,build --prefix none); \
	if grep -E '^(openssl|openssl-sys|openssl-src|native-tls|aws-lc-[a-z-]+) ' <<<"$$tree"; then \
	  echo "error: TLS is rustls with ring; the crates above must not come in" >&2; exit 1; \
	fi
	@echo "lint: all clean"

docs: build $(VENV)/.docs ## Build the documentation's site into site/; what is broken in it is an error.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: site/index.html"

bench: release ## Measure; one JSON object a line.
	@$(BIN)/python benches/bench.py | tee $(CARGO_TARGET_DIR)/bench.jsonl
	@$(BIN)/python benches/server.py | tee -a $(CARGO_TARGET_DIR)/bench.jsonl
	@cargo bench -q --bench engine | tee -a $(CARGO_TARGET_DIR)/bench.jsonl

clean: ## Remove what was built; results of runs stay.
	rm -rf $(CARGO_TARGET_DIR) $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache python/cmbagent/_core*.so
	find python tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.dev
build: $(VENV)/.built-debug
release: $(VENV)/.built-release

$(VENV)/.python:
	@command -v cargo >/dev/null || { echo "error: Rust is missing. Get it at https://rustup.rs, then open a new shell." >&2; exit 1; }
	@command -v cc >/dev/null || { echo "error: a C compiler is missing. Debian/Ubuntu: apt install build-essential; Fedora: dnf install gcc; macOS: xcode-select --install" >&2; exit 1; }
	@for each in $(PYTHON) python3.13 python3.12 python3.11 python3 $$HOME/.pyenv/versions/3.1[1-9]*/bin/python; do \
	  if "$$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$each; break; fi; \
	  if [ "$$each" = "$(PYTHON)" ]; then echo "error: PYTHON=$$each is no Python >= 3.11 with the module venv" >&2; exit 1; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "error: no Python >= 3.11 with the module venv found. Debian/Ubuntu: apt install python3 python3-venv; or https://www.python.org/downloads; or name one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)
	@touch $@

# Dependency groups need pip 25.1.
$(VENV)/.dev: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install -q 'pip>=25.1'
	@$(BIN)/python -m pip install -q --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.dev pyproject.toml
	@$(BIN)/python -m pip install -q --group docs
	@touch $@

# Both profiles install the same file, so each forgets the other's stamp.
$(VENV)/.built-debug: $(VENV)/.dev $(ENGINE)
	$(BIN)/maturin develop -q --extras science
	@rm -f $(VENV)/.built-release; touch $@

$(VENV)/.built-release: $(VENV)/.dev $(ENGINE)
	$(BIN)/maturin develop -q --release --extras science
	@rm -f $(VENV)/.built-debug; touch $@
