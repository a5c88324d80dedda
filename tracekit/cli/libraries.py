"""Which libraries of this installation ``tracekit run`` and ``tracekit.instrument()`` trace, by whom, and which not."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import Any, NamedTuple

from .. import _libraries

# OpenTelemetry's instrumentations by the module that they trace, where tracekit has none. A suggestion: one that is
# installed is found by its entry point.
_SAME_NAME = (
    "aiokafka aiopg anthropic asyncpg botocore cassandra elasticsearch falcon jinja2 pika psycopg psycopg2 pymemcache"
    " pymongo pymssql pymysql pyramid redis remoulade sqlite3 tornado"
)
_PACKAGES = {name: name for name in _SAME_NAME.split()} | {
    "aio_pika": "aio-pika",
    "boto3": "boto3sqs",
    "confluent_kafka": "confluent-kafka",
    "kafka": "kafka-python",
    "mysql.connector": "mysql",
    "MySQLdb": "mysqlclient",
    "openai": "openai-v2",
    "tortoise": "tortoiseorm",
}


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
            change = f'name it: tracekit.instrument("{library.name}"), or tracekit run --only'
        elif library not in chosen:
            change = "take it out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
        elif library.is_opentelemetry:
            change = _conflict(library.package)
        names = modules if modules and library.name not in modules else [library.name]
        rows += [Coverage(name, "" if change else library.package, change) for name in names]
    for module, package in _PACKAGES.items():
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
