"""SQLAlchemy 2: a client span for each statement that an engine executes.

    tracekit.integrations.sqlalchemy.instrument()          # all engines, those that exist as well
    tracekit.integrations.sqlalchemy.instrument(engine)    # or one; an AsyncEngine, too

The span covers ``cursor.execute()`` or ``executemany()`` and ends before rows are fetched. It has the statement without
literals, and never parameters. Connecting, ``COMMIT`` and ``ROLLBACK`` have no span.

How it works: listeners of the dialect's ``do_execute``, ``do_executemany`` and ``do_execute_no_params``, which
SQLAlchemy calls in the task of the program for asynchronous engines, too. They execute the statement themselves, through
the listeners behind them and the dialect. With listeners of an engine's events, such as ``before_cursor_execute``, each new
``Connection`` looks up seven events in a slow way, which costs more than the span.

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
    from .._core.span import Span, start_request_span, tracer_in_use
    from ._client import end, may_record
    from ._suppression import is_suppressed

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["instrument", "uninstrument"]

_FIELD: Final = "_tracekit_span"  # of an execution's context, while a statement is executed inside a span
_ENGINE_FIELD: Final = "_tracekit_attributes"
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db", "redshift": "aws.redshift"}
_ROOM: Final = 7  # attributes that most statements have
_MAX_STATE: Final = 64  # characters of a database's code of an error


def instrument(target: Engine | AsyncEngine | None = None) -> None:
    """Trace the statements of *target*, or of every engine. A second call changes nothing.

    An engine and those that its ``execution_options()`` returns are traced together: they have one dialect. Raises
    ``TypeError`` for other objects.
    """
    engine = _checked(target)
    for name, listener in _LISTENERS.items():
        if not event.contains(engine, name, listener):
            event.listen(engine, name, listener)


def uninstrument(target: Engine | AsyncEngine | None = None) -> None:
    """Undo ``instrument(target)``."""
    engine = _checked(target)
    for name, listener in _LISTENERS.items():
        if event.contains(engine, name, listener):
            event.remove(engine, name, listener)


def _checked(target: object) -> Any:
    """Return the object for the listeners. SQLAlchemy finds them by its ``id()``, so it must outlive them."""
    if target is None:
        return Engine
    # Not imported here: with it come the ORM and greenlet. An AsyncEngine exists only where the program has imported it.
    kind = getattr(sys.modules.get("sqlalchemy.ext.asyncio"), "AsyncEngine", None)
    if kind is not None and isinstance(target, kind):
        return target.sync_engine.dialect
    if not isinstance(target, Engine):
        raise TypeError(f"target must be a SQLAlchemy Engine or AsyncEngine, not {type(target).__name__}")
    return target.dialect


def _execute(cursor: Any, statement: Any, parameters: Any, context: Any) -> bool:
    return _traced(cursor, statement, (parameters, context), context, "do_execute")


def _execute_many(cursor: Any, statement: Any, parameters: Any, context: Any) -> bool:
    return _traced(cursor, statement, (parameters, context), context, "do_executemany")


def _execute_no_params(cursor: Any, statement: Any, context: Any) -> bool:
    return _traced(cursor, statement, (context,), context, "do_execute_no_params")


_LISTENERS: Final[dict[str, Any]] = {
    "do_execute": _execute,
    "do_executemany": _execute_many,
    "do_execute_no_params": _execute_no_params,
}


def _traced(cursor: Any, statement: Any, rest: tuple[Any, ...], context: Any, event_name: str) -> bool:
    """Execute *statement* inside a span and return True, or return False where SQLAlchemy shall execute it."""
    try:
        span = _start(statement, context, rest[0] if event_name == "do_executemany" else ())
    except Exception as error:  # the statement is executed without a span
        report(error)
        return False
    if span is None:
        return False
    try:
        _execute_inside(cursor, statement, rest, context.dialect, event_name)
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        context.__dict__.pop(_FIELD, None)
    end(span)
    return True


def _execute_inside(cursor: Any, statement: Any, rest: tuple[Any, ...], dialect: Any, event_name: str) -> None:
    """Execute *statement* as SQLAlchemy does: by the first listener behind ours that returns true, or the dialect."""
    ours = _LISTENERS[event_name]
    is_behind = False
    for listener in [*getattr(dialect.dispatch, event_name)]:  # uninstrument() may change it meanwhile
        if listener is ours:
            is_behind = True
        elif is_behind and listener(cursor, statement, *rest):
            return
    getattr(dialect, event_name)(cursor, statement, *rest)


def _start(statement: Any, context: Any, many: Any) -> Span | None:
    """Return the span of *statement*; None if it has one, is suppressed, or is not that of an execution.

    *many* are the sets of parameters that it is executed for. A listener may have made them an iterator.
    """
    if context is None or not context.root_connection._allow_autobegin:  # or one of connecting
        return None
    fields = context.__dict__
    if _FIELD in fields or is_suppressed():  # the engine and all engines are instrumented
        return None
    dialect = context.dialect.name
    name = _SYSTEMS.get(dialect, dialect)
    attributes = None
    if may_record():
        engine = context.root_connection.engine
        known = engine.__dict__.get(_ENGINE_FIELD) or _attributes_of(engine, dialect)
        text, summary = describe(statement, dialect)
        attributes = Items.__new__(Items)
        attributes.reserve(_ROOM)
        for key, value in known.items():
            attributes.add(key, value)
        attributes.add("db.query.text", text)
        if summary:
            attributes.add("db.query.summary", summary)
        if hasattr(many, "__len__") and len(many) > 1:
            attributes.add("db.operation.batch.size", len(many))
        name = summary or known.get("db.namespace") or name
    span = start_request_span(tracer_in_use(), str(name), "client", attributes, (), None)
    fields[_FIELD] = True
    return span


def _fail(span: Span, error: BaseException) -> None:
    try:
        if span.is_recording and isinstance(error, Exception):
            code = _code_of(error)
            if code:
                span.set_attribute("db.response.status_code", code)
            span.set_attribute("error.type", code or error_type(error))
        span.__exit__(type(error), error, error.__traceback__)
    except Exception as failed:  # the program gets its own error, not this one
        report(failed)


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
