# Everything is set up by the targets themselves; `make help` lists them.
#
#   PYTHON=/path/to/python3   the interpreter at hand (default: python3)
#   ONLY=3.9,3.15             only these interpreters of the matrix
#   PATHS="..."               what `make corpus` checks in place of its packages
#   ARGS="..."                more arguments for the suite or the demo

PYTHON ?= python3
VENV ?= .venv
ONLY ?=
PATHS ?=
ARGS ?=

SOURCES := $(shell find src -type f -not -name '*.pyc' -not -name '*.so' -not -path '*.egg-info/*' 2>/dev/null) \
           pyproject.toml setup.py
STAMPS := build/stamps
# PyAudio is ported for the demo where the PortAudio headers are installed; the folder is named as by build.py.
TAG := import sys, sysconfig as s; print("%d.%d.%d-" % sys.version_info[:3] + s.get_config_var("SOABI"))
MATRIX = $(PYTHON) tools/matrix.py $(if $(ONLY),--only $(ONLY))
.DEFAULT_GOAL := help
.PHONY: help demo test test-all pyaudio callback stress exits explore sanitize examples bench corpus docs lint clean distclean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo ## native threads at the end of the process, old API and new side by side
	@echo "building PyAudio ..." >&2
	@$(VENV)/bin/python examples/pyaudio/build.py --always --recompiled > $(STAMPS)/pyaudio.log 2>&1 || \
	    echo "PyAudio was not built, its row stays empty; why: $(STAMPS)/pyaudio.log" >&2
	@PEP788_DEMO_PYAUDIO=$(abspath build/pyaudio)/`$(VENV)/bin/python -c '$(TAG)'` $(VENV)/bin/pep788 demo $(ARGS)

test: $(STAMPS)/test ## the tests on the interpreter at hand (minutes)
	$(VENV)/bin/python -m pytest tests $(ARGS)

test-all: $(STAMPS)/checked ## the tests on every interpreter, 3.9 to 3.15; makes the missing ones
	@$(MATRIX) tests -- $(ARGS)

pyaudio: $(STAMPS)/checked ## a real extension, ported and not, exiting in mid-stream on every interpreter
	@$(MATRIX) pyaudio -- $(ARGS)

callback: $(STAMPS)/checked ## pure-Python programs with callbacks, exiting in mid-call on every interpreter
	@$(MATRIX) callback -- $(ARGS)

stress: $(STAMPS)/checked ## initialize and finalize under fire, on every interpreter
	@$(MATRIX) stress -- $(ARGS)

exits: $(STAMPS)/test ## pep788 stress on programs that fail at exit, 200 runs of each correct one, and what it costs
	PEP788_TEST_TRIES=50 $(VENV)/bin/python -m pytest -q tests/tools/test_stress_programs.py $(ARGS)
	$(VENV)/bin/python bench/exits.py

explore: $(STAMPS)/test ## all interleavings of the guard and close state machine
	$(VENV)/bin/python tests/explore/run.py $(ARGS)

sanitize: $(STAMPS)/test ## the same code under the thread, address and undefined-behaviour sanitizers, and the shield
	$(VENV)/bin/python tests/sanitize/run.py $(ARGS)

examples: $(STAMPS)/checked ## the example projects, built from the wheel on the oldest and the newest interpreter
	@$(PYTHON) examples/build_all.py $(if $(ONLY),--interpreters $(ONLY)) $(ARGS)

bench: $(STAMPS)/bench ## what it costs, against native 3.15, PyGILState and other libraries: tables and plots
	@$(VENV)/bin/python bench/bench.py $(if $(ONLY),--interpreters $(ONLY)) $(ARGS)

corpus: $(STAMPS)/check ## check and migrate on eight real packages, by labels, built and tested; or check on PATHS="..."
	$(VENV)/bin/python $(if $(PATHS),tools/corpus.py $(PATHS),examples/migrate/packages.py) $(ARGS)

docs: $(STAMPS)/docs ## the documentation as a site: build/docs/html/index.html
	$(VENV)/bin/sphinx-build -q -E -a -W --keep-going -c docs . build/docs/html $(ARGS)
	@echo "build/docs/html/index.html"

lint: $(STAMPS)/dev ## ruff, mypy, and the types as mypy sees them in a program that uses pep788
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q tests/tools/test_package.py::test_typing

clean: ## delete what was built, except the Debian chroot and the downloads
	@$(PYTHON) tools/interpreters.py clean
	rm -rf $(VENV) dist src/*.egg-info
	find src tests tools bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## delete everything that was built or downloaded
	@$(PYTHON) tools/interpreters.py clean --all

# One virtual environment for all; a stamp for each set of extras says that it is up to date.
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/bench $(STAMPS)/check $(STAMPS)/dev $(STAMPS)/docs: $(STAMPS)/python $(SOURCES) tools/setup_env.py
	@$(PYTHON) tools/setup_env.py --venv $(VENV) $(patsubst %,--extra %,$(filter-out demo,$(notdir $@)))
	@touch $@

$(STAMPS)/checked: $(STAMPS)/python
	@touch $@

# Changes only when another PYTHON or VENV is asked for.
$(STAMPS)/python: FORCE
	@mkdir -p $(STAMPS)
	@command -v $(firstword $(PYTHON)) >/dev/null 2>&1 || { \
	    echo "make: $(PYTHON) was not found; install Python 3.9 or newer (Debian: apt install python3 python3-dev" \
	         "python3-venv) or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { \
	    echo "make: $(PYTHON) is too old or cannot be run; Python 3.9 or newer is needed:" \
	         "make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; print(sys.executable, sys.version)' > $@.new
	@echo $(abspath $(VENV)) `test -e $(VENV)/bin/python && echo there` >> $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
