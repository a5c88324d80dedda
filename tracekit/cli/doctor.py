"""The doctor: checks of this installation, its settings, and the way to a file or a collector."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .. import _libraries, _propagation
from .._configure import configure
from .._core import NO_EXTENSIONS
from .._core.codecs import IMPLEMENTATION
from .._core.context import SpanContext
from .._core.free_threading import HAS_GIL
from .._core.inherited import INHERITS
from .._core.span import ROOT, span
from .._distribution import NAME, find_clash, find_elsewhere
from .._environment import Environment
from .._render import duration, duration_of_s, printable
from .._version import __version__
from ..exporters._otlp.settings import otlp_settings, without_secrets
from ..exporters.sqlite import SQLiteExporter, StoreError
from .screen import Screen, print_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_PACKAGES = ("anyio", "trio", "uvloop", "httpx", "grpcio", "rich")
_PACKAGE = Path(__file__).resolve().parents[1]
_ABSENT = "not installed"
# A parent for spans that are not exported.
_UNSAMPLED = SpanContext(deferred=False)

# In the answers of OTLP over HTTP and over gRPC; the port took the connection.
_SILENT = ("does not answer in time", "DEADLINE_EXCEEDED")
_WHY_SILENT = "the collector hangs, or a proxy before it holds requests or answers back"

# OpenTelemetry's instrumentations by the module that they trace, where tracekit has none. A suggestion: one that is
# installed is found by its entry point.
_SAME_NAME = (
    "aiokafka aiopg anthropic asyncpg botocore cassandra elasticsearch falcon jinja2 pika psycopg psycopg2 pymemcache"
    " pymongo pymssql pymysql pyramid redis remoulade sqlite3 tornado"
)
_INSTRUMENTATIONS = {name: name for name in _SAME_NAME.split()} | {
    "aio_pika": "aio-pika",
    "boto3": "boto3sqs",
    "confluent_kafka": "confluent-kafka",
    "kafka": "kafka-python",
    "mysql.connector": "mysql",
    "MySQLdb": "mysqlclient",
    "openai": "openai-v2",
    "tortoise": "tortoiseorm",
}


class Finding(NamedTuple):
    """One thing that the doctor has looked at."""

    name: str
    ok: bool
    text: str


def run(arguments: argparse.Namespace) -> int:
    """Run ``tracekit doctor``, and return its exit status."""
    findings = examine(arguments.db, arguments.endpoint)
    ok = all(finding.ok for finding in findings)
    if arguments.json:
        checks = {name: {"ok": good, "text": text} for name, good, text in findings}
        print_json({"ok": ok, "checks": checks, "libraries": [row._asdict() for row in coverage()]})
        return 0 if ok else 1
    screen = Screen()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = (("✓", "green"), "") if finding.ok else (("✗", "bold red"), "red")
        screen.line(mark, (f" {finding.name:<{width}}  ", "bold"), (printable(finding.text, 2000), style))
    screen.line(("libraries that tracekit run and tracekit.instrument() trace, and how to trace the others", "bold"))
    rows = coverage()
    width = max((len(row.name) for row in rows), default=0)
    for name, traced_by, change in rows:
        text = f"by {traced_by}" if traced_by else f"not traced: {change}"
        screen.line((f"  {name:<{width}}  ", "bold"), (printable(text, 2000), "" if traced_by else "yellow"))
    screen.line(("all is well", "green") if ok else ("something is broken: see above", "bold red"))
    return 0 if ok else 1


def examine(db: str | None = None, endpoint: str | None = None) -> list[Finding]:
    """Look at everything once; with *db*, also whether a span can be stored there, with *endpoint*, sent there.

    An empty *endpoint* is the one that the environment names.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("tracekit", lambda: __version__),
        ("distribution", _distribution),
        ("implementation", _implementation),
        ("python", _python),
        ("threads", _threads),
        ("platform", platform.platform),
        ("ids", _ids),
        ("clock", _clock),
        ("formats", lambda: ", ".join(format.name for format in _propagation.formats())),
        ("sqlite", lambda: sqlite3.sqlite_version),
        *[(name, lambda name=name: _installed(name)) for name in _PACKAGES],
        ("opentelemetry", _opentelemetry),
    ]
    findings = [*(_look(name, check) for name, check in checks), *_configuration(sends=endpoint is not None)]
    if db is not None:
        findings.append(_look("db", lambda: _try_store(db)))
    if endpoint is not None:
        findings.append(_look("endpoint", lambda: _try_send(endpoint)))
    return findings


def _look(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except Exception as error:  # any failure is a finding of the doctor
        kind = "" if isinstance(error, StoreError | RuntimeError | ValueError) else f"{type(error).__name__}: "
        return Finding(name, False, printable(f"{kind}{error}", 2000))


def _distribution() -> str:
    clash = find_clash(str(_PACKAGE)) or find_elsewhere()
    if clash:
        raise RuntimeError(
            f"{clash} is installed too, and has the same package: uninstall both, and install {NAME} again"
        )
    folder = _PACKAGE.parent
    try:
        found = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return f"{NAME}: not installed, imported from {folder}"
    text = f"{NAME} {found.version}"
    if Path(str(found.locate_file(""))).resolve() == folder:
        return text
    source = json.loads(found.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable") and _folder_of(source["url"]) == folder:
        return f"{text}, editable, from {folder}"
    return f"{text} is installed, but not in use: this one is imported from {folder}"


def _folder_of(url: str) -> Path:
    """Return the folder of a ``file:`` URL; pip writes it as the user typed it, with symbolic links."""
    return Path(url2pathname(urlsplit(url).path)).resolve()


def _implementation() -> str:
    if NO_EXTENSIONS:
        return f"{IMPLEMENTATION}: forced by TRACEKIT_NO_EXTENSIONS={os.environ.get('TRACEKIT_NO_EXTENSIONS', '')}"
    if IMPLEMENTATION == "plain" and not HAS_GIL and sys.version_info < (3, 14):
        return "plain: the extension modules run without the GIL from CPython 3.14 on"
    if IMPLEMENTATION == "plain":
        others = sorted(path.name for path in _PACKAGE.glob("_speedups.*") if path.suffix in (".so", ".pyd"))
        if others:
            return f"plain: built for another Python only ({', '.join(others[:4])}); install again with this one"
        return f"plain: no extension module in {_PACKAGE}; install with a C compiler at hand for the compiled one"
    # An editable installation of one checkout supplies the modules that another one, first on the path, lacks.
    built = Path(sys.modules["tracekit._speedups"].__file__ or "").resolve()
    if built.parent != _PACKAGE:
        raise RuntimeError(f"compiled, but by {built}, of another installation than {_PACKAGE}: uninstall one")
    stale = _stale_modules(_PACKAGE)
    if stale:
        names = ", ".join(stale[:4]) + (" …" if len(stale) > 4 else "")
        return f"compiled, but {len(stale)} modules are missing or older than their sources ({names}): install again"
    return "compiled: built for this Python"


def _stale_modules(package: Path) -> list[str]:
    """Return the modules in the checkout of *package* whose extension modules are missing, or older than their sources.

    An installed wheel has neither ``.pxd`` files nor times that mean anything; there the list is empty.
    """
    if not (package.parent / "setup.py").exists():
        return []
    sources = {
        path.with_suffix(""): [path, path.with_suffix(".py")]
        for path in package.rglob("*.pxd")
        if path.with_suffix(".py").exists() and path.stem not in ("free_threading", "interpreter")  # inlined
    }
    sources[package / "_speedups"] = [*package.glob("_speedups*.p[yx][xi]")]
    stale = []
    for stem, files in sorted(sources.items()):
        built = [path for suffix in EXTENSION_SUFFIXES if (path := stem.with_name(stem.name + suffix)).exists()]
        if not built or built[0].stat().st_mtime < max(path.stat().st_mtime for path in files):
            stale.append(".".join(stem.relative_to(package.parent).parts))
    return stale


def _threads() -> str:
    if not hasattr(sys.flags, "thread_inherit_context"):
        return "start in an empty Context"
    context = "inherit the Context of their start" if INHERITS else "start in an empty Context"
    return f"{context}: thread_inherit_context={int(INHERITS)}"


def _opentelemetry() -> str:
    api, sdk = _installed("opentelemetry-api"), _installed("opentelemetry-sdk")
    text = f"api {api}, sdk {sdk}"
    if sdk == _ABSENT:
        return text
    return (
        f"{text}: a program that sets up this SDK beside tracekit makes two traces of each request;"
        " call tracekit.bridges.opentelemetry.install() to have one"
    )


def _configuration(*, sends: bool) -> list[Finding]:
    """Return the settings that ``configure()`` takes from the environment, and every variable that is wrong.

    With *sends*, those of OTLP are checked also where another exporter is configured.
    """
    environment = Environment()
    name = "none, OTEL_SDK_DISABLED is true" if environment.is_disabled() else environment.exporter_name()
    path = f" {printable(environment.sqlite_path(), 1000)}" if name == "sqlite" else ""
    facts = [f"exporter {name}{path}"]
    wrong: list[str] = []
    if name == "otlp" or sends:
        settings, wrong = otlp_settings(protocol=environment.otlp_protocol)
    if name == "otlp":
        if "endpoint" in settings:
            facts.append(f"endpoint {without_secrets(settings['endpoint'])}")
        if "headers" in settings:
            facts.append(f"headers {', '.join(settings['headers'])}")
    if name in ("otlp", "console", "sqlite"):
        environment.exporter_type(name)
    # Only to find faults in them.
    environment.limits(), environment.export_interval_s(), environment.batch_size(environment.buffer_size())
    facts.append(f"sampler {environment.sampler()}")
    facts.append(f"service {printable(environment.resource()['service.name'])}")
    facts.append(f"propagators {', '.join(format.name for format in environment.formats()) or 'none'}")
    lines = [*environment.wrong.values(), *wrong]
    return [
        Finding("configuration", True, "; ".join(facts)),
        *(Finding(variable, False, text) for variable, _, text in (line.partition(" ") for line in lines)),
    ]


def _python() -> str:
    is_free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    is_locked: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "free-threaded" if is_free else "with GIL"
    if is_free and is_locked:
        build += ", but the GIL is on"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}, {sys.executable}"


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return _ABSENT


def _ids() -> str:
    contexts = [span("tracekit doctor", parent=_UNSAMPLED).context for _ in range(1000)]
    if len({context.id for context in contexts}) < 1000 or not all(context.is_valid for context in contexts):
        raise RuntimeError("ids repeat, or are zero: os.urandom does not give random bytes")
    return "from os.urandom; 1000 drawn, none twice"


def _clock() -> str:
    resolution = time.get_clock_info("monotonic").resolution
    earlier, now = time.monotonic_ns(), time.time()
    if time.monotonic_ns() < earlier:
        raise RuntimeError("the monotonic clock runs backwards")
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < 1_600_000_000:
        raise RuntimeError(f"the wall clock is wrong: {said}")
    return f"{said}; monotonic, in steps of {duration_of_s(resolution)}"


def _try_store(path: str) -> str:
    """Store a span in the file at *path* and take it back; where there is no file yet, in another one beside it."""
    if os.path.exists(path):
        _store_one(path)
        return f"{os.path.abspath(path)}: a span can be stored and read"
    directory = os.path.dirname(os.path.abspath(path))
    try:
        beside = tempfile.mkdtemp(prefix=".tracekit-doctor-", dir=directory)
    except OSError as error:
        why = f"cannot be made ({error.strerror})"
        raise StoreError(why, path, "create its directory, writable for this user") from error
    try:
        _store_one(os.path.join(beside, "traces.db"))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return f"{os.path.abspath(path)}: not there yet; a span can be stored beside it"


def _store_one(path: str) -> None:
    wanted = span("tracekit doctor", parent=_UNSAMPLED)
    wanted.end()
    exporter = SQLiteExporter(path)
    try:
        found = exporter.probe(wanted)
    finally:
        exporter.shutdown()
    if (found.trace_id, found.name) != (wanted.context.trace_id, wanted.name):
        raise RuntimeError(f"what was read from {path} is not what was stored there")


def _try_send(endpoint: str) -> str:
    """Send a span to the collector at *endpoint*, past any spool, and say how long it took."""
    from ..exporters.otlp import OTLPExporter  # the libraries that it needs may not be there
    from ..testing import MemoryExporter

    # The environment's resource alone: its service is the one that is to arrive, and no debug pages are to be served.
    spans = MemoryExporter()
    configure(resource=Environment().resource(), exporter=spans, environ={})
    span("tracekit doctor", parent=ROOT, attributes={"tracekit.doctor": True}).end()
    (wanted,) = spans
    exporter = OTLPExporter(endpoint or None)
    begin_ns = time.monotonic_ns()
    try:
        answer = exporter.probe(wanted)
    finally:
        exporter.shutdown()
    if answer.outcome != "taken":
        is_silent = any(mark in answer.reason for mark in _SILENT)
        raise RuntimeError(answer.reason + ("; " + _WHY_SILENT if is_silent else ""))
    if answer.rejected:
        raise RuntimeError(f"{exporter.endpoint} rejected the span: {answer.reason}")
    took = duration(time.monotonic_ns() - begin_ns)
    return f"{exporter.endpoint} ({exporter.protocol}) accepted a span of trace {wanted.context.trace_id} in {took}"


# ---- the libraries of this installation: who traces them, and how to have the others traced


class Coverage(NamedTuple):
    """A library that is installed here. *traced_by* is a package, or "": then *change* is the remedy."""

    name: str
    traced_by: str
    change: str


def coverage() -> list[Coverage]:
    """Return a row for each installed library that can be traced, by name. Imports none of them."""
    chosen = _libraries.chosen()
    rows = []
    covered: set[str] = set()
    for library in _libraries.libraries().values():
        modules = [module for module in library.modules if _is_there(module)]
        covered.update(library.modules)
        if not modules and library.modules:
            continue
        change = ""
        if library.by_name_only:
            change = f'call tracekit.instrument("{library.name}")'
        elif library not in chosen:
            change = "take it out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
        elif library.is_opentelemetry:
            change = _conflict(library.package)
        names = modules if modules and library.name not in modules else [library.name]
        rows += [Coverage(name, "" if change else library.package, change) for name in names]
    for module, package in _INSTRUMENTATIONS.items():
        if module not in covered and _is_there(module):
            rows.append(Coverage(module, "", f"pip install opentelemetry-instrumentation-{package}"))
    return sorted(set(rows))


def _is_there(module: str) -> bool:
    """Return whether *module* could be imported, as far as that is known without importing its package."""
    top = module.partition(".")[0]
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _conflict(package: str) -> str:
    """Return the conflict between the versions of *package* and of its library, "" if they fit."""
    try:
        dependencies: Any = importlib.import_module("opentelemetry.instrumentation.dependencies")
        conflict = dependencies.get_dist_dependency_conflicts(metadata.distribution(package))
    except Exception as error:  # its own packages are broken or missing
        return f"repair {package}: {type(error).__name__}: {error}"
    if conflict is None:
        return ""
    wanted = getattr(conflict, "required", None) or ", ".join(getattr(conflict, "required_any", None) or ())
    wanted = str(wanted).partition(";")[0]  # without the extra
    return f"{package} needs {wanted}, found {getattr(conflict, 'found', None) or 'another version'}"
