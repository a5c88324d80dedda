"""SQLAlchemy 2: a client span for each statement that an engine executes.

    tracekit.integrations.sqlalchemy.instrument()          # all engines, those that exist as well
    tracekit.integrations.sqlalchemy.instrument(engine)    # or one; an AsyncEngine, too

The span covers ``cursor.execute()`` or ``executemany()`` and ends before rows are fetched. It has the statement without
literals, and never parameters. Connecting, ``COMMIT`` and ``ROLLBACK`` have no span.

How it works: listeners of ``before_cursor_execute``, ``after_cursor_execute`` and ``handle_error``, which SQLAlchemy
calls in the task of the program for asynchronous engines, too. The span is an attribute of the execution's context, so
it is freed with it.

Compiled: see ``_client.py``.

Conventions: https://opentelemetry.io/docs/specs/semconv/database/sql/
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Engine

from ..cython import compiled
from ._http import error_type, is_port, report
from ._sql import describe

if not compiled:
    from .._core.codecs import Items
    from .._core.span import start_request_span, tracer_in_use
    from ._client import end, may_record
    from ._suppression import is_suppressed

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["instrument", "uninstrument"]

_FIELD: Final = "_tracekit_span"  # of an execution's context, or of a connection that executes without one
_ENGINE_FIELD: Final = "_tracekit_attributes"
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db", "redshift": "aws.redshift"}
_ROOM: Final = 7  # attributes that most statements have
_MAX_STATE: Final = 64  # characters of a database's code of an error


def instrument(target: Engine | AsyncEngine | None = None) -> None:
    """Trace the statements of *target*, or of every engine. A second call changes nothing.

    Raises ``TypeError`` for other objects.
    """
    engine = _checked(target)
    for name, listener in _LISTENERS.items():
        if not event.contains(engine, name, listener):
            # With *retval*, SQLAlchemy calls the listener itself rather than a function around it.
            event.listen(engine, name, listener, **({"retval": True} if listener is _before else {}))


def uninstrument(target: Engine | AsyncEngine | None = None) -> None:
    """Undo ``instrument(target)``."""
    engine = _checked(target)
    for name, listener in _LISTENERS.items():
        if event.contains(engine, name, listener):
            event.remove(engine, name, listener)


def _checked(target: object) -> Any:
    if target is None:
        return Engine
    # Not imported here: with it come the ORM and greenlet. An AsyncEngine exists only where the program has imported it.
    kind = getattr(sys.modules.get("sqlalchemy.ext.asyncio"), "AsyncEngine", None)
    if kind is not None and isinstance(target, kind):
        return target.sync_engine
    if not isinstance(target, Engine):
        raise TypeError(f"target must be a SQLAlchemy Engine or AsyncEngine, not {type(target).__name__}")
    return target


def _before(conn: Any, _cursor: Any, statement: Any, parameters: Any, context: Any, executemany: Any) -> Any:
    try:
        _start(conn, statement, parameters, conn if context is None else context, executemany)
    except Exception as error:  # the statement is executed without a span
        report(error)
    return statement, parameters


def _start(conn: Any, statement: Any, parameters: Any, owner: Any, executemany: Any) -> None:
    fields = owner.__dict__
    if fields.get(_FIELD) is not None or is_suppressed():  # the engine and all engines are instrumented
        return
    dialect = conn.dialect.name
    name = _SYSTEMS.get(dialect, dialect)
    attributes = None
    if may_record():
        engine = conn.engine
        known = engine.__dict__.get(_ENGINE_FIELD) or _attributes_of(engine, dialect)
        text, summary = describe(statement, dialect)
        attributes = Items.__new__(Items)
        attributes.reserve(_ROOM)
        for key, value in known.items():
            attributes.add(key, value)
        attributes.add("db.query.text", text)
        if summary:
            attributes.add("db.query.summary", summary)
        if executemany and len(parameters) > 1:
            attributes.add("db.operation.batch.size", len(parameters))
        name = summary or known.get("db.namespace") or name
    fields[_FIELD] = start_request_span(tracer_in_use(), str(name), "client", attributes, (), None)


def _after(conn: Any, cursor: Any, statement: Any, parameters: Any, context: Any, executemany: Any) -> None:  # noqa: ARG001
    ours = (conn if context is None else context).__dict__.pop(_FIELD, None)
    if ours is not None:
        end(ours)


def _failed(exception_context: Any) -> None:
    try:
        owner = exception_context.execution_context or exception_context.connection
        ours = None if owner is None else owner.__dict__.pop(_FIELD, None)
        if ours is None:
            return
        error = exception_context.original_exception
        if ours.is_recording and isinstance(error, Exception):
            code = _code_of(error)
            if code:
                ours.set_attribute("db.response.status_code", code)
            ours.set_attribute("error.type", code or error_type(error))
        ours.__exit__(type(error), error, error.__traceback__)
    except Exception as failed:  # SQLAlchemy would raise it in place of the program's
        report(failed)


_LISTENERS: Any = {"before_cursor_execute": _before, "after_cursor_execute": _after, "handle_error": _failed}


def _attributes_of(engine: Any, dialect: str) -> dict[str, Any]:
    """Return the attributes of all statements of *engine*, and remember them."""
    url = engine.url
    attributes: dict[str, Any] = {"db.system.name": _SYSTEMS.get(dialect, dialect)}
    if url.database:
        attributes["db.namespace"] = url.database
    if url.host:
        attributes["server.address"] = url.host
    if is_port(url.port):
        attributes["server.port"] = url.port
    engine.__dict__[_ENGINE_FIELD] = attributes
    return attributes


def _code_of(error: Any) -> str | None:
    """Return the code of the database for *error*: SQLSTATE, or that of SQLite."""
    for name in ("sqlstate", "pgcode", "sqlite_errorname"):
        code = getattr(error, name, None)
        if isinstance(code, str):
            return code[:_MAX_STATE]
    return None
