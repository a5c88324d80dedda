"""SQLAlchemy: real engines, synchronous and asynchronous, on SQLite."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.ext.asyncio import create_async_engine

import tracekit
from tracekit import _configure
from tracekit.bridges import opentelemetry as bridge
from tracekit.integrations import sqlalchemy as tracing
from tracekit.testing import span_tree


@pytest.fixture
def engine():
    made = sa.create_engine("sqlite://")
    with made.begin() as connection:
        connection.execute(sa.text("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    yield made
    made.dispose()


@pytest.fixture
def traced(engine):
    tracing.instrument(engine)
    yield engine
    tracing.uninstrument(engine)


def run(engine, statement, *parameters):
    with engine.begin() as connection:
        return connection.execute(sa.text(statement), *parameters)


def test_a_statement(exporter, traced):
    with tracekit.span("request"):
        run(traced, "INSERT INTO items (name) VALUES ('secret')")
    assert span_tree(exporter.spans) == "request\n  INSERT items"
    statement = exporter.spans[0]
    assert (statement.kind, statement.status.code) == ("client", "unset")
    assert statement.attributes == {
        "db.system.name": "sqlite",
        "db.query.text": "INSERT INTO items (name) VALUES (?)",
        "db.query.summary": "INSERT items",
    }


def test_the_server(exporter):
    for url, expected in {
        "postgresql+psycopg://u:secret@db.internal:5433/shop": ("postgresql", "shop", "db.internal", 5433),
        "postgresql+asyncpg://db.internal/shop": ("postgresql", "shop", "db.internal", None),
        "sqlite:////tmp/file.db": ("sqlite", "/tmp/file.db", None, None),
    }.items():
        engine = type("Engine", (), {"url": sa.make_url(url)})()
        found = tracing._attributes_of(engine, sa.make_url(url).get_backend_name())
        names = ("db.system.name", "db.namespace", "server.address", "server.port")
        assert tuple(map(found.get, names)) == expected
        assert "secret" not in repr(found)


def test_many_parameters_at_once(exporter, traced):
    run(traced, "INSERT INTO items (name) VALUES (:name)", [{"name": "a"}, {"name": "b"}])
    (statement,) = exporter.spans
    assert statement.attributes["db.operation.batch.size"] == 2


def test_parameters_that_a_listener_made_an_iterator(exporter, traced):
    @sa.event.listens_for(traced, "before_cursor_execute", retval=True)
    def change(_connection, _cursor, statement, parameters, _context, executemany):
        return statement, iter(parameters) if executemany else parameters

    run(traced, "INSERT INTO items (name) VALUES (:name)", [{"name": "a"}, {"name": "b"}])
    assert [one.name for one in exporter.spans] == ["INSERT items"]


def test_a_statement_that_is_executed_without_a_context(exporter, traced, caplog):
    with traced.connect() as connection:
        connection._cursor_execute(connection.connection.cursor(), "SELECT 1", ())
    assert not exporter.spans
    assert not caplog.records


@pytest.mark.parametrize("is_whole", [False, True])
def test_statements_of_connecting_have_no_span(exporter, monkeypatch, is_whole):
    executed = []
    monkeypatch.setattr(
        SQLiteDialect,
        "initialize",
        lambda _, connection: executed.append(connection.exec_driver_sql("SELECT 0").scalar()),
    )
    engine = sa.create_engine("sqlite://")
    target = None if is_whole else engine
    tracing.instrument(target)
    try:
        run(engine, "SELECT 1")
    finally:
        tracing.uninstrument(target)
        engine.dispose()
    assert executed == [0]
    assert [one.name for one in exporter.spans] == ["SELECT"]


def test_engines_that_share_a_dialect_are_traced_together(exporter, engine):
    for _ in range(3):
        tracing.instrument(engine.execution_options(tenant="a"))
    assert len(list(engine.dialect.dispatch.do_execute)) == 1
    run(engine, "SELECT 1")
    tracing.uninstrument(engine)
    run(engine.execution_options(), "SELECT 2")
    assert [one.name for one in exporter.spans] == ["SELECT"]


def test_a_listener_behind_that_uninstruments(exporter, engine):
    tracing.instrument(engine)
    sa.event.listen(engine, "do_execute", lambda *_: tracing.uninstrument(engine))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    assert [one.name for one in exporter.spans] == ["SELECT"]


def test_inserts_in_batches_of_sqlalchemys_own(exporter, traced):
    table = sa.Table("items", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
    with traced.begin() as connection:
        rows = [{"name": str(number)} for number in range(5)]
        made = connection.execute(
            sa.insert(table).returning(table.c.id), rows, execution_options={"insertmanyvalues_page_size": 2}
        )
        assert len(made.all()) == 5
    assert [one.name for one in exporter.spans] == ["INSERT items"] * 3


def test_a_statement_that_fails(exporter, traced):
    run(traced, "INSERT INTO items (name) VALUES ('a')")
    with pytest.raises(sa.exc.IntegrityError):
        run(traced, "INSERT INTO items (name) VALUES ('a')")
    statement = exporter.spans[1]
    assert statement.status.code == "error"
    assert statement.attributes["error.type"] == "SQLITE_CONSTRAINT_UNIQUE"
    assert statement.attributes["db.response.status_code"] == "SQLITE_CONSTRAINT_UNIQUE"
    assert [event.name for event in statement.events] == ["exception"]


def test_an_asynchronous_engine(exporter):
    async def main():
        engine = create_async_engine("sqlite+aiosqlite://")
        tracing.instrument(engine)
        async with engine.begin() as connection:
            with tracekit.span("request"):
                await connection.execute(sa.text("SELECT 1"))
                with pytest.raises(sa.exc.OperationalError):
                    await connection.execute(sa.text("SELECT 1 FROM missing"))
        tracing.uninstrument(engine)
        async with engine.begin() as connection:
            await connection.execute(sa.text("SELECT 2"))
        await engine.dispose()

    asyncio.run(main())
    assert span_tree(exporter.spans) == "request\n  SELECT\n  SELECT missing [error]"


# aiosqlite leaves connections open whose making was cancelled, without tracekit as well; Python 3.13 and later report them.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
def test_a_statement_cancelled_at_each_await(exporter, tmp_path):
    async def attempt(engine, after):
        async def work():
            async with engine.connect() as connection:
                await connection.execute(sa.text("SELECT 1"))

        task = asyncio.ensure_future(work())
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return False
        return True

    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/items.db", pool_size=40)
        tracing.instrument(engine)
        try:
            await asyncio.gather(*[attempt(engine, after) for after in range(40)])
            async with engine.connect() as connection:
                assert (await connection.execute(sa.text("SELECT 7"))).scalar() == 7
            assert engine.pool.checkedout() == 0
        finally:
            tracing.uninstrument(engine)
            await engine.dispose()
            # The thread of a cancelled connection answers the loop, which must not be closed by then: aiosqlite starts to
            # stop it when the connection is cancelled or collected, and does not wait for it.
            gc.collect()
            for thread in threading.enumerate():
                if "_connection_worker_thread" in thread.name:
                    await asyncio.to_thread(thread.join, 20)
                    assert not thread.is_alive()

    asyncio.run(main())
    gc.collect()
    statistics = tracekit.statistics()
    assert statistics.open == 0
    assert {one.status.code for one in exporter.spans} <= {"unset", "cancelled"}


def test_all_engines(exporter, engine):
    tracing.instrument()
    tracing.instrument()
    tracing.instrument(engine)  # one span all the same
    later = sa.create_engine("sqlite://")
    try:
        for one in (engine, later):
            run(one, "SELECT 1")
    finally:
        tracing.uninstrument()
        run(engine, "SELECT 2")
        tracing.uninstrument(engine)
        later.dispose()
    run(engine, "SELECT 3")
    assert len(exporter.spans) == 3


@pytest.mark.parametrize("is_first", [True, False], ids=["in front of ours", "behind ours"])
def test_listeners_of_the_program_that_execute_statements(exporter, engine, is_first):
    executed = []

    def other(_cursor, statement, _parameters, _context):
        executed.append(statement)

    def execute(cursor, statement, parameters, _context):
        executed.append(statement)
        cursor.execute(statement.replace("1", "2"), parameters)
        return True

    if not is_first:
        tracing.instrument(engine)
    sa.event.listen(engine, "do_execute", other)
    sa.event.listen(engine, "do_execute", execute)
    if is_first:
        tracing.instrument(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 2
    assert executed == ["SELECT 1", "SELECT 1"]
    assert len(exporter.spans) == (0 if is_first else 1)  # executed before tracing saw it


def test_a_connection_looks_up_no_listeners(traced):
    # SQLAlchemy would do so for each new connection, at five times the cost of the span.
    with traced.connect() as connection:
        assert not connection._has_events
        assert not traced._has_events


def test_a_statement_without_parameters(exporter, traced):
    with traced.connect().execution_options(no_parameters=True) as connection:
        connection.exec_driver_sql("SELECT 7")
    assert [one.name for one in exporter.spans] == ["SELECT"]


def test_listeners_are_removed(engine):
    names = ("do_execute", "do_executemany", "do_execute_no_params")
    before = [len(list(getattr(engine.dialect.dispatch, name))) for name in names]
    tracing.instrument(engine)
    assert [len(list(getattr(engine.dialect.dispatch, name))) for name in names] == [count + 1 for count in before]
    tracing.uninstrument(engine)
    assert [len(list(getattr(engine.dialect.dispatch, name))) for name in names] == before
    tracing.uninstrument(engine)
    with pytest.raises(TypeError, match="target must be"):
        tracing.instrument(7)
    with pytest.raises(TypeError):
        tracing.instrument(engine, nonsense=1)


def test_tracekit_instrument_takes_an_engine(exporter, engine):
    tracekit.instrument(engine)
    run(engine, "SELECT 1")
    tracekit.uninstrument(engine)
    assert [one.name for one in exporter.spans] == ["SELECT"]


def test_nothing_is_held(exporter):
    engine = sa.create_engine("sqlite://")
    tracing.instrument(engine)
    run(engine, "SELECT 1")
    reference = weakref.ref(engine)
    engine.dispose()
    del engine
    gc.collect()
    assert reference() is None


def test_a_listener_of_the_program_that_raises(exporter, traced):
    def no(*_):
        raise ValueError("no")

    sa.event.listen(traced, "before_cursor_execute", no)
    with pytest.raises(ValueError, match="no"):
        run(traced, "SELECT 1")
    sa.event.remove(traced, "before_cursor_execute", no)
    gc.collect()
    run(traced, "SELECT 2")
    assert tracekit.statistics().open == 0


def test_a_large_statement(exporter, traced):
    value = "x" * 1_000_000
    assert run(traced, f"SELECT 1 WHERE 'a' = '{value}'") is not None
    (statement,) = exporter.spans
    assert statement.attributes["db.query.text"] == "SELECT ? WHERE ? = ?"


def test_an_unsampled_trace_is_not_described(exporter, traced, monkeypatch):
    monkeypatch.setattr(tracing, "describe", None)
    with tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16, 0)):
        run(traced, "SELECT 1")
    assert exporter.spans == []


def test_a_statement_that_sampling_drops_is_described_for_the_debug_pages(exporter, traced):
    taken = []
    take = taken.extend
    _configure.add_tap(take, records_all=True)
    try:
        with tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16, 0)):
            run(traced, "INSERT INTO items (name) VALUES ('secret')")
        tracekit.flush(60)
    finally:
        _configure.remove_tap(take)
    (statement,) = taken
    assert statement.attributes["db.query.text"] == "INSERT INTO items (name) VALUES (?)"
    assert exporter.spans == []


def test_what_tracing_raises_does_not_reach_the_program(exporter, traced, monkeypatch, caplog):
    monkeypatch.setattr(tracing, "describe", None)
    with caplog.at_level(logging.WARNING, "tracekit"):
        run(traced, "SELECT 1")
    assert exporter.spans == []


def test_opentelemetrys_suppression_is_honored(exporter, traced):
    from opentelemetry import context

    bridge.install()
    try:
        token = context.attach(context.set_value("suppress_instrumentation", True))
        try:
            run(traced, "SELECT 1")
        finally:
            context.detach(token)
    finally:
        bridge.uninstall()
    assert exporter.spans == []


def test_it_imports_nothing_of_sqlalchemy_that_the_program_has_not():
    code = """
import sys
import sqlalchemy
before = set(sys.modules)
from tracekit.integrations import sqlalchemy as tracing
tracing.instrument()
print(*sorted(name for name in set(sys.modules) - before if name.startswith(("sqlalchemy", "greenlet", "asyncio"))))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == []
