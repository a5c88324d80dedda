# Every target sets up what it needs in .venv; nothing has to be installed beforehand but Python, make and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is compiled: the codecs, and the Python files that have a .pxd.
TYPES := $(wildcard tracekit/*.pxd tracekit/*/*.pxd tracekit/*/*/*.pxd)
CODECS := $(wildcard tracekit/_speedups*.p[yx][xi])
SOURCES := pyproject.toml setup.py $(CODECS) $(TYPES) $(wildcard $(TYPES:.pxd=.py))

# Collectors that the tests send to, each with its own idea of what else it wants installed.
AGENT := $(VENV)/agent
PHOENIX := $(VENV)/phoenix
# Checks of accessibility, and a type checker, from the npm registry.
AXE := .cache/axe-core/package/axe.min.js
PYRIGHT := .cache/pyright/package/index.js
export TRACEKIT_TEST_AGENT := $(CURDIR)/$(AGENT)/bin/ddapm-test-agent

.PHONY: demo test test-fast ui-test lint types docs bench guarantees interop otel-contrib w3c collector faults soak fuzz asan pythons wheel clean

demo: $(VENV)/demo
	$(BIN)/tracekit demo

# The tests of one pass, which are the same in both implementations (tests/conftest.py).
ONCE := one_form and not packaging
BOTH := not (one_form or packaging)
PARTS := test-files test-folders test-plain test-compiled test-packaging
.PHONY: $(PARTS)

# Every group of tests runs, three at a time: two keep two cores busy while the third waits for servers, timeouts or a
# browser. Make prints a group's report when it ends, and fails if a group failed.
test: $(VENV)/test $(AGENT)/ready
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync=target $(PARTS)

test-files: ; @$(BIN)/python -m pytest -m "$(ONCE)" $(wildcard tests/test_*.py)
test-folders: ; @$(BIN)/python -m pytest -m "$(ONCE)" $(patsubst %/,%,$(wildcard tests/*/))
test-plain: ; @TRACEKIT_NO_EXTENSIONS=1 $(BIN)/python -m pytest -m "$(BOTH)"
test-compiled: ; @$(BIN)/python -m pytest -m "$(BOTH)"
test-packaging: ; @$(BIN)/python -m pytest -m packaging

# The compiled implementation, without servers, processes and the tests that take long: under a minute, for while one types.
test-fast: $(VENV)/test
	$(BIN)/python -m pytest -q -m "not slow and not packaging"

# The pages of tracekit ui in headless Chromium (Debian: apt-get install chromium), with the spans of a demo, axe-core's
# checks and new pictures for docs/images/.
ui-test: $(VENV)/test $(AXE)
	TRACEKIT_UI_TEST=1 TRACEKIT_TEST_AXE=$(AXE) TRACEKIT_UI_PICTURES=docs/images $(BIN)/python -m pytest tests/ui

lint: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/cython-lint $(CODECS) $(TYPES)

# The examples and the code of the documents, with mypy and pyright (needs node and npm).
types: $(VENV)/lint $(PYRIGHT)
	TRACEKIT_TEST_PYRIGHT=$(CURDIR)/$(PYRIGHT) $(BIN)/python -m pytest tests/test_types.py

# The pages, as HTML in .cache/docs.
docs: $(VENV)/docs
	$(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs .cache/docs
	@echo "open .cache/docs/index.html"

bench: $(VENV)/bench
	$(BIN)/python -m bench.compare
	$(BIN)/python -m bench.export
	$(BIN)/python -m bench.bridge
	$(BIN)/python -m bench.receiver
	$(BIN)/python -m bench.ui
	$(BIN)/python -m bench.live

guarantees: $(VENV)/bench
	$(BIN)/python -m tests.guarantees

# Services of OpenTelemetry in Go, Java, JavaScript, Python and Rust, built the first time, which takes minutes. Tests of a
# language that is not installed are skipped, and the reason is printed. `make interop REQUESTS=10000` sends more.
interop: $(VENV)/test
	TRACEKIT_INTEROP=1 TRACEKIT_INTEROP_REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -rs tests/interop

# CONTRIB is a checkout of opentelemetry-python-contrib; OTEL, which may be left out, one of opentelemetry-python.
otel-contrib: $(VENV)/test
	$(BIN)/python -m tests.tools.otel_contrib $(CONTRIB) $(if $(OTEL),--sdk $(OTEL))

w3c: $(VENV)/test
	$(BIN)/python -m tests.tools.w3c_harness

# The OpenTelemetry Collector, which Go builds the first time (it is skipped without Go), and Phoenix.
collector: $(VENV)/test $(PHOENIX)/ready
	$(BIN)/python -m tests.tools.collector
	$(BIN)/python -m tests.tools.phoenix $(PHOENIX)/bin/phoenix

faults: $(VENV)/test
	$(BIN)/python -m tests.faults

soak: $(VENV)/test
	$(BIN)/python -m tests.soak

fuzz: $(VENV)/test
	$(BIN)/python -m tests.tools.fuzz --inputs 1000000

asan: $(VENV)/test
	$(BIN)/python -m tests.tools.asan

pythons: $(VENV)/test
	$(BIN)/python -m tests.tools.pythons

wheel: | $(VENV)/pip
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
	find tracekit \( -name '*.so' -o -name '*.pyd' -o -name '*.c' \) -delete

# The first installation that people wait for prints its progress.
$(VENV)/demo: $(SOURCES)
	@$(PYTHON) tests/tools/first_install.py $(VENV) demo
	@touch $@

# One stamp an extra: installing again rebuilds the extension where a source of it has changed.
$(VENV)/test $(VENV)/lint $(VENV)/docs $(VENV)/bench: $(VENV)/%: $(SOURCES) | $(VENV)/pip
	$(BIN)/pip install --quiet --editable ".[$*]"
	@touch $@

$(AGENT)/ready: | $(VENV)/pip
	$(PYTHON) -m venv $(AGENT)
	$(AGENT)/bin/pip install --quiet "ddapm-test-agent>=1.60"
	@touch $@

$(AXE):
	@mkdir -p .cache/axe-core
	cd .cache/axe-core && npm pack --silent axe-core@4 && tar xzf axe-core-4*.tgz package/axe.min.js
	@touch $@

$(PYRIGHT):
	@mkdir -p .cache/pyright
	cd .cache/pyright && npm pack --silent pyright@1 && tar xzf pyright-1*.tgz
	@touch $@

$(PHOENIX)/ready: | $(VENV)/pip
	$(PYTHON) -m venv $(PHOENIX)
	$(PHOENIX)/bin/pip install --quiet "arize-phoenix>=12"
	@touch $@

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@touch $@
