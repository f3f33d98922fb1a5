# podwire: every task of a developer or a packager is a target here; `make` alone lists them.

PYTHON        ?= /usr/bin/python3
PODWIRE_CACHE ?= $(CURDIR)/build/cache
CNI_BIN_DIR   ?= /opt/cni/bin
PREFIX        ?= /opt/podwire
DESTDIR       ?=
SYSTEMD_DIR   ?=
WORKERS       ?= 2
PYTEST_ARGS   ?=

export PYTHON PODWIRE_CACHE
# The plugin processes that tests start must find compiled modules, as those of an installed copy do.
unexport PYTHONDONTWRITEBYTECODE

SHELL   := /bin/bash
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.podwire-stamp
BUNDLE  := build/bundle/podwire
CNITOOL := build/tools/cnitool
SHIM    := build/shim/shim
CODE    := $(shell find cni ipam agent -name '*.py' 2>/dev/null)
PYTEST   = $(PY) -m pytest -n $(WORKERS) --dist worksteal
# Each path as one word, whatever is in it.
INSTALLER = DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' CNI_BIN_DIR='$(CNI_BIN_DIR)' SYSTEMD_DIR='$(SYSTEMD_DIR)' packaging/install.sh

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo deps venv check test test-agent test-slow test-machine test-runtimes bench bundle shim cnitool install uninstall fresh clean distclean

help: ## this list
	@echo 'podwire: CNI plugins and IP address management for Linux pods.'
	@echo 'Start with `make demo`, then `make test`; both do their own set-up, as root on Debian.'
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo
	@echo 'Settings, as NAME=value after the target:'
	@echo '  PYTEST_ARGS="-k lease -x"   WORKERS=$(WORKERS)   PYTHON=$(PYTHON)'
	@echo '  CNI_BIN_DIR=$(CNI_BIN_DIR)   PREFIX=$(PREFIX)   DESTDIR=$(DESTDIR)   SYSTEMD_DIR=$(SYSTEMD_DIR)'
	@echo '  PODWIRE_CACHE=$(PODWIRE_CACHE)   (downloads; make clean keeps them)'

## See it

demo: deps $(STAMP) $(CNITOOL) $(BUNDLE) ## wire two pods with the official cnitool, prove it, take it all away
	$(PY) -m demo

bench: deps $(STAMP) $(BUNDLE) ## what calls take, with the agent and without, beside the Go reference plugins
	$(PY) -m bench

## Work on it

check: $(STAMP) ## lint, format, types and layers, in seconds
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/unit/test_layers.py

test: deps $(STAMP) $(CNITOOL) $(SHIM) $(BUNDLE) ## the default test run
	$(PYTEST) $(PYTEST_ARGS)

test-agent: deps $(STAMP) $(CNITOOL) $(SHIM) ## the tests on a real kernel once more, through the native client and the agent
	$(PYTEST) --agent tests/netns tests/wire/test_fuzz.py::test_executables tests/e2e/test_cnitool.py tests/e2e/test_interop.py \
		tests/e2e/test_kill.py tests/e2e/test_nodes.py $(PYTEST_ARGS)

test-slow: deps $(STAMP) $(CNITOOL) $(SHIM) $(BUNDLE) ## the tests that take minutes, and a search for new examples of bad input
	$(PYTEST) -m slow $(PYTEST_ARGS)
	$(PYTEST) -m slow --agent tests/e2e/test_kill.py tests/e2e/test_nodes.py $(PYTEST_ARGS)
	PODWIRE_EXAMPLES=search $(PYTEST) -m 'hypothesis and not slow' tests/unit tests/wire/test_fuzz.py $(PYTEST_ARGS)

test-machine: deps $(STAMP) $(CNITOOL) ## the tests that need a fuller kernel, in an emulated machine
	@packaging/deps.sh machine
	$(PY) -m pytest -m machine $(PYTEST_ARGS)

test-runtimes: deps $(STAMP) $(BUNDLE) ## the plugins as installed, under real containerd and podman
	$(PYTEST) -m runtimes $(PYTEST_ARGS)

fresh: ## prove the first two commands on a Debian root where nothing is installed
	@packaging/deps.sh fresh
	packaging/fresh.sh

## Set it up

deps: ## install the Debian packages that are missing (root; nothing to do when all are there)
	@packaging/deps.sh build cnitool test

venv: $(STAMP) ## .venv: podwire (editable) and its developer tools

# compat: a plain path entry. The default of setuptools is an import hook, which costs every interpreter start.
$(STAMP): setup.cfg pyproject.toml
	@packaging/deps.sh build
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

cnitool: $(CNITOOL) ## build/tools/cnitool, from Debian's source package of libcni

$(CNITOOL): packaging/cnitool.sh packaging/debian-sources.sh
	@packaging/deps.sh cnitool
	packaging/cnitool.sh $@

## Ship it

bundle: $(BUNDLE) ## build/bundle: the plugins, their native client and the agent; no Python needed

# Built beside and put in place at the end, because a test run may be using the one that is there.
$(BUNDLE): $(STAMP) $(SHIM) $(CODE) $(wildcard packaging/*.py packaging/*.spec)
	rm -rf build/bundle.new
	PYI_LOG_LEVEL=WARN $(PY) -m PyInstaller --noconfirm --distpath build/bundle.new --workpath build/bundle.work \
		packaging/podwire.spec
	rm -rf build/bundle.work build/bundle && mv build/bundle.new/podwire build/bundle && rmdir build/bundle.new
	@touch $@

shim: $(SHIM) ## build/shim/shim: the native client of the agent, in C

# Static: it runs on any distribution. With musl: a program of it that does nothing takes 0.1 ms, one of glibc 0.4, because glibc
# asks the processor what it is before main, and in a virtual machine each such question is an exit to the hypervisor.
# Renamed at the end: tests may run the one there is.
$(SHIM): shim/shim.c
	@packaging/deps.sh build
	@mkdir -p $(@D)
	musl-gcc -std=c11 -static -O2 -Wall -Wextra -Wpedantic -Werror -Wconversion -Wshadow -o $@.$$$$ $< && mv $@.$$$$ $@

install: $(BUNDLE) ## the plugins into CNI_BIN_DIR, the rest into PREFIX, units of the agent for systemd
	$(INSTALLER) install $(dir $(BUNDLE))

uninstall: ## take them off again; plugins that were there before come back
	$(INSTALLER) uninstall

## Tidy up

clean: ## remove what was built; .venv and downloads stay
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean ## remove .venv and downloads too
	rm -rf $(VENV) build *.egg-info
