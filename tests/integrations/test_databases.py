"""Databases with real servers: through the bridge by OpenTelemetry's instrumentors, and natively by SQLAlchemy."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sqlite3
import tempfile

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import tracekit
from tracekit.integrations import sqlalchemy as tracing
from tracekit.testing import span_tree

from .databases import postgres_programs, postgres_server, redis_server


@pytest.fixture(scope="module")
def postgres():
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # Not in pytest's own folder, to which each run of pytest forbids other users: the server does not run as root.
    with tempfile.TemporaryDirectory(prefix="tracekit-postgres-") as folder, postgres_server(folder) as socket:
        yield socket


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with redis_server(tmp_path_factory.mktemp("redis")) as path:
        yield path


def instrumented(name):
    """Instrument *name* by OpenTelemetry's package, which must be there."""
    if importlib.util.find_spec(f"opentelemetry.instrumentation.{name}") is None:
        pytest.skip(f"opentelemetry-instrumentation-{name} is not installed")
    tracekit.instrument(name)
    return name


def check(exporter, system):
    assert exporter.spans[-1].name == "request"
    below = exporter.spans[:-1]
    assert below
    assert {one.parent.span_id for one in below} == {exporter.spans[-1].context.span_id}
    assert {one.kind for one in below} == {"client"}
    assert {one.attributes.get("db.system.name") or one.attributes.get("db.system") for one in below} == {system}


def test_psycopg_through_the_bridge(exporter, postgres):
    import psycopg

    name = instrumented("psycopg")
    try:
        with psycopg.connect(f"host={postgres} user=postgres") as connection, tracekit.span("request"):
            assert connection.cursor().execute("SELECT 7").fetchone() == (7,)
    finally:
        tracekit.uninstrument(name)
    check(exporter, "postgresql")


def test_asyncpg_through_the_bridge(exporter, postgres):
    import asyncpg

    async def main():
        connection = await asyncpg.connect(host=postgres, user="postgres")
        with tracekit.span("request"):
            assert await connection.fetchval("SELECT 7") == 7
        await connection.close()

    name = instrumented("asyncpg")
    try:
        asyncio.run(main())
    finally:
        tracekit.uninstrument(name)
    check(exporter, "postgresql")


def test_redis_through_the_bridge(exporter, redis):
    import redis as library

    name = instrumented("redis")
    try:
        with library.Redis(unix_socket_path=redis) as client, tracekit.span("request"):
            client.set("a", "7")
            assert client.get("a") == b"7"
    finally:
        tracekit.uninstrument(name)
    check(exporter, "redis")


def test_sqlite3_through_the_bridge(exporter):
    name = instrumented("sqlite3")
    try:
        with tracekit.span("request"):
            connection = sqlite3.connect(":memory:")
            assert connection.cursor().execute("SELECT 7").fetchone() == (7,)
            connection.close()
    finally:
        tracekit.uninstrument(name)
    check(exporter, "sqlite")


def test_sqlalchemy_natively_on_psycopg(exporter, postgres):
    engine = sa.create_engine(f"postgresql+psycopg://postgres@/postgres?host={postgres}")
    tracing.instrument(engine)
    with engine.connect() as connection, tracekit.span("request"):
        assert connection.execute(sa.text("SELECT $$it's$$, E'\\'', 7")).one() == ("it's", "'", 7)
        with pytest.raises(sa.exc.ProgrammingError):
            connection.execute(sa.text("SELECT * FROM missing"))
    engine.dispose()
    assert span_tree(exporter.spans[-3:]) == "request\n  SELECT\n  SELECT missing [error]"
    done, failed, _ = exporter.spans[-3:]
    assert done.attributes["db.query.text"] == "SELECT ?, ?, ?"
    assert (done.attributes["db.system.name"], done.attributes["db.namespace"]) == ("postgresql", "postgres")
    assert failed.attributes["db.response.status_code"] == "42P01"


def test_sqlalchemy_natively_on_asyncpg(exporter, postgres):
    async def main():
        engine = create_async_engine(f"postgresql+asyncpg://postgres@/postgres?host={postgres}")
        tracing.instrument(engine)
        async with engine.connect() as connection:
            with tracekit.span("request"):
                await connection.execute(sa.text("SELECT 7"))
                sleeping = asyncio.ensure_future(connection.execute(sa.text("SELECT pg_sleep(60)")))
                done, _ = await asyncio.wait({sleeping}, timeout=0.05)
                assert not done
                sleeping.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sleeping
        await engine.dispose()

    asyncio.run(main())
    below = [one for one in exporter.spans if one.parent is not None]
    assert [(one.name, one.status.code) for one in below] == [("SELECT", "unset"), ("SELECT", "cancelled")]
