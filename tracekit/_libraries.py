"""The libraries that can be instrumented: tracekit's own integrations, and entry points of installed packages.

``tracekit run`` loads this file into every interpreter before anything else, so it imports only ``os`` and ``sys``, and
reads the packages' metadata directly: ``importlib.metadata`` takes longer to import than the whole search.

- ``tracekit.integrations``: a module with ``instrument(target=None, **options)`` and ``uninstrument(target=None)``.
- ``opentelemetry_instrumentor``: a class of OpenTelemetry's ``BaseInstrumentor``.
"""

from __future__ import annotations

import os
import sys

OWN_GROUP = "tracekit.integrations"
OTEL_GROUP = "opentelemetry_instrumentor"

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_PIECE = 1 << 16  # octets; fewer are the end of a file


class Library:
    """A library that can be instrumented, and the way to do it.

    *load* is a module of tracekit's or of a third party's, or ``module:Class`` of an OpenTelemetry instrumentor.
    *package* is the distribution that has it. The library is instrumented when one of *modules* is imported, or at once
    if there are none. *replaces* holds names of instrumentors that are left out for it, *instead* those of them that are
    installed. *by_name_only*: not among "all libraries". *is_late*: importing the library is no reason to load
    tracekit, because it makes no spans.
    """

    __slots__ = (
        "by_name_only",
        "instead",
        "is_late",
        "is_opentelemetry",
        "load",
        "modules",
        "name",
        "package",
        "replaces",
    )

    def __init__(
        self,
        name: str,
        load: str,
        modules: tuple[str, ...],
        *,
        package: str = "tracekit",
        replaces: tuple[str, ...] = (),
        by_name_only: bool = False,
        is_late: bool = False,
        is_opentelemetry: bool = False,
    ) -> None:
        self.name, self.load, self.modules, self.package = name, load, modules, package
        self.replaces, self.by_name_only, self.is_late = replaces, by_name_only, is_late
        self.is_opentelemetry = is_opentelemetry
        self.instead: list[Library] = []

    def __repr__(self) -> str:
        return f"<Library {self.name} by {self.package}>"


# Names whose module is called otherwise; those that need an object or a configuration, and so have none, are left out.
_OTEL_MODULES = {
    "aiohttp-client": ("aiohttp",),
    "aiohttp-server": ("aiohttp",),
    "asyncclick": ("asyncclick",),
    "boto": ("boto",),
    "boto3": ("boto3",),
    "google-genai": ("google.genai",),
    "grpc_aio_client": ("grpc",),
    "grpc_aio_server": ("grpc",),
    "grpc_client": ("grpc",),
    "grpc_server": ("grpc",),
    "kafka": ("kafka",),
    "mysql": ("mysql.connector",),
    "mysqlclient": ("MySQLdb",),
    "openai": ("openai",),
    "tortoiseorm": ("tortoise",),
    "urllib": ("urllib.request",),
}
# These trace nothing without settings, or hand on a context that tracekit hands on already.
_OTEL_BY_NAME_ONLY = ("asgi", "asyncio", "dbapi", "system_metrics", "threading", "wsgi")


def _own() -> list[Library]:
    """Return the libraries that tracekit's integrations trace."""

    def own(name: str, *modules: str, replaces: str = "", by_name_only: bool = False, is_late: bool = False) -> Library:
        load, names = f"tracekit.integrations.{name}", tuple(replaces.split())
        return Library(name, load, modules, replaces=names, by_name_only=by_name_only, is_late=is_late)

    return [
        own("aiohttp", "aiohttp", replaces="aiohttp-client aiohttp-server"),
        own("arq", "arq"),
        own("asgi", "starlette", "fastapi", "django.core.handlers.asgi", replaces="asgi starlette fastapi"),
        own("celery", "celery", replaces="celery"),
        own("grpc", "grpc", replaces="grpc_client grpc_server grpc_aio_client grpc_aio_server"),
        own("http_client", "http.client", replaces="urllib urllib3 requests"),
        # Not on the import of socketserver, which logging.config imports too. On that of ASGI servers, because they
        # handle SIGTERM before they import the app: the handler that exports must be installed first.
        own(
            "http_server",
            "granian.server",
            "http.server",
            "hypercorn.config",
            "uvicorn.server",
            "wsgiref.simple_server",
            "xmlrpc.server",
            replaces="socketserver",
        ),
        own("httpx", "httpx", replaces="httpx"),
        own("httpx2", "httpx2", replaces="httpx2"),
        own("logging", "logging", replaces="logging", is_late=True),
        own("loguru", "loguru", is_late=True),
        own("sqlalchemy", "sqlalchemy", replaces="sqlalchemy"),
        own("structlog", "structlog", is_late=True),
        own("subprocess", "subprocess", "asyncio.subprocess", by_name_only=True, is_late=True),
        own("taskiq", "taskiq"),
        own("threads", replaces="threading", is_late=True),  # there is no trace to hand on before tracekit is loaded
        own("wsgi", "flask", "django.core.handlers.wsgi", replaces="wsgi flask django"),
    ]


_found: dict[str, dict[str, Library]] = {}  # under one key: setdefault() gives all threads the same


def libraries() -> dict[str, Library]:
    """Return the libraries that something installed can instrument, by name; packages are searched once."""
    return _found.get("all") or _found.setdefault("all", _search())


def _search() -> dict[str, Library]:
    found = {library.name: library for library in _own()}
    replaced = {name: library for library in found.values() for name in library.replaces}
    by_others = entry_points((OWN_GROUP, OTEL_GROUP))
    for group, name, value, package, _ in by_others:
        if group == OWN_GROUP and name not in found:
            found[name] = Library(name, value, (_identifier(name),), package=package)
    for group, name, value, package, folder in by_others:
        if group != OTEL_GROUP or ":" not in value:
            continue
        modules = _OTEL_MODULES.get(name) or tuple(
            {_identifier(name): 0, **dict.fromkeys(map(_identifier, _instrumented(_read(folder + "METADATA"))))}
        )
        is_special = name in _OTEL_BY_NAME_ONLY
        library = Library(name, value, modules, package=package, by_name_only=is_special, is_opentelemetry=True)
        native = replaced.get(name) or found.get(name)
        if native is not None and not native.is_opentelemetry:
            native.instead.append(library)
        elif native is None:  # of two packages with one name the first one counts, as it does for imports
            found[name] = library
    return found


def _identifier(name: str) -> str:
    return name.replace("-", "_")


def resolve(name: str) -> Library | None:
    """Return the library of *name*, which may also be one of its modules, or of a replaced instrumentor."""
    found = libraries()
    known = found.get(name) or found.get(name.replace("-", "_"))
    if known is None:
        for library in found.values():
            if name in library.modules or name in library.replaces:
                return library
    return known


def names() -> list[str]:
    """Return every name that ``resolve()`` knows."""
    found = {name for library in libraries().values() for name in (library.name, *library.modules, *library.replaces)}
    return sorted(found)


def chosen(only: str = "", exclude: str = "") -> list[Library]:
    """Return the libraries of the comma-separated names *only*, or all, without those of *exclude*.

    ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` excludes, too; ``*`` in it means all. Unknown names are ignored.
    """
    disabled = _split(os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", ""))
    if "*" in disabled:
        return []
    left_out = [resolve(name) for name in (*_split(exclude), *disabled)]
    named = _split(only)
    wanted = map(resolve, named) if named else [one for one in libraries().values() if not one.by_name_only]
    kept: list[Library] = []
    for library in wanted:
        if library is not None and library not in left_out and library not in kept:
            kept.append(library)
    return kept


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def entry_points(groups: tuple[str, ...]) -> list[tuple[str, str, str, str, str]]:
    """Return (group, name, value, package, folder of its metadata) of installed packages.

    Packages in folders of ``sys.path`` only, not in archives. The first package of a name counts. The folder ends with
    a separator.
    """
    found, seen = [], set()
    marks = [f"[{group}]".encode() for group in groups]
    for folder in sys.path:
        folder = folder or "."
        try:
            entries = [entry for entry in os.listdir(folder) if entry.endswith((".dist-info", ".egg-info"))]
        except (OSError, ValueError):
            continue
        for entry in sorted(entries):
            package = entry.rpartition(".")[0].partition("-")[0].replace("_", "-")
            name = package.lower()
            if name in seen:
                continue
            seen.add(name)
            path = f"{folder}{os.sep}{entry}{os.sep}"
            octets = _read(path + "entry_points.txt")
            for mark in marks:
                # Few packages have a mark; the others are not decoded. The operator "in" takes twice as long.
                if octets.find(mark) >= 0:
                    found += [(*row, package, path) for row in _rows(_text(octets), groups)]
                    break
    return found


def _read(path: str) -> bytes:
    try:
        file = os.open(path, _READ)  # of several hundred files: half the time of open()
    except OSError:
        return b""
    try:
        pieces = [os.read(file, _PIECE)]
        while len(pieces[-1]) == _PIECE:
            pieces.append(os.read(file, _PIECE))
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(file)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _rows(text: str, groups: tuple[str, ...]) -> list[tuple[str, str, str]]:
    rows, group = [], ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in groups and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            rows.append((group, name.strip(), value.partition("[")[0].strip()))
    return rows


def _instrumented(metadata: bytes) -> list[str]:
    """Return the names of the packages that the extra "instruments" or "instruments-any" requires."""
    found = []
    for field in metadata.partition(b"\n\n")[0].split(b"\nRequires-Dist:")[1:]:
        requirement = _text(field.partition(b"\n")[0]).strip()
        if "extra" in requirement and "instruments" in requirement:
            end = next((at for at, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None)
            found.append(requirement[:end])
    return found
