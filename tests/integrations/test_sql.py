"""Statements without their literals, and their summaries."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.integrations._sql import MAX_QUERY, describe

DIALECTS = ["postgresql", "mysql", "sqlite", "mssql", "oracle", "other"]


@pytest.mark.parametrize(
    ("dialect", "statement", "text"),
    [
        ("sqlite", "a = 'x'", "a = ?"),
        ("sqlite", "a = 'it''s' AND b = 'x'", "a = ? AND b = ?"),
        ("sqlite", "a IN ('x', 'y', 1, 2.5, .5, 1e-9, 0xFF)", "a IN (?, ?, ?, ?, ?, ?, ?)"),
        ("sqlite", "a1 = -5 AND t2.b3 = 3", "a1 = -? AND t2.b3 = ?"),
        ("sqlite", "a = X'6162' AND b = N'x'", "a = X? AND b = N?"),
        ("sqlite", "a = 'it is not clo", "a = ?"),
        ("sqlite", "\"na'me\" = 'x'", '"na\'me" = ?'),
        ("sqlite", "a = ? AND b = :name AND c = @p AND d = $1", "a = ? AND b = :name AND c = @p AND d = $1"),
        ("postgresql", "a = %(a_1)s AND b = %s", "a = %(a_1)s AND b = %s"),
        ("postgresql", r"a = 'C:\' AND b = 'x'", "a = ? AND b = ?"),
        ("postgresql", r"a = E'it\'s' AND b = 'x'", "a = ? AND b = ?"),
        ("postgresql", "a = $$it's$$ AND b = $q$a $$ b$q$ AND c = 'x'", "a = ? AND b = ? AND c = ?"),
        ("postgresql", "a = $$it is not clo", "a = ?"),
        ("postgresql", "a::int = b[1]", "a::int = b[?]"),
        ("mysql", r"a = 'it\'s' AND b = 'x'", "a = ? AND b = ?"),
        ("mysql", r"""a = "it\"s" AND b = 'x'""", "a = ? AND b = ?"),
        ("mysql", "a = `it's` # isn't\nAND b = 'x'", "a = `it's`  \nAND b = ?"),
        ("mssql", "[it's] = 'x' AND [a]]b] = 'y'", "[it's] = ? AND [a]]b] = ?"),
        (
            "oracle",
            "a = q'[it's]' AND b = Q'!it's!' AND c = nq'(it's)' AND d = 'x'",
            "a = ? AND b = ? AND c = ? AND d = ?",
        ),
        ("other", "a = 'x' -- isn't\nAND b = 'y' /* isn't */ AND c = 'z'", "a = ?  \nAND b = ?   AND c = ?"),
        ("other", "/* never closed 'x'", ""),
        ("other", "", ""),
    ],
)
def test_literals_and_comments_are_removed(dialect, statement, text):
    assert describe(statement, dialect)[0] == text


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("SELECT * FROM users WHERE id = 7", "SELECT users"),
        ("select u.a from public.users u, orders join items on 1=1", "SELECT public.users orders items"),
        ('SELECT * FROM "song list", artists', 'SELECT "song list" artists'),
        ("SELECT extract(year FROM d), a IS DISTINCT FROM b FROM t FOR UPDATE", "SELECT t"),
        ("SELECT * FROM (SELECT 1 FROM a) b, c", "SELECT SELECT a c"),
        ("INSERT INTO t (a) VALUES (1), (2)", "INSERT t"),
        ("INSERT INTO t SELECT a FROM b", "INSERT t SELECT b"),
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT DO UPDATE SET a = 1", "INSERT t"),
        ("UPDATE t SET a = 1", "UPDATE t"),
        ("DELETE FROM ONLY a.b WHERE c = 1", "DELETE a.b"),
        ("WITH r AS (SELECT 1 FROM x) INSERT INTO t (a) VALUES (1)", "SELECT x INSERT t"),
        ("CREATE TABLE IF NOT EXISTS t (a REFERENCES b ON DELETE CASCADE)", "CREATE TABLE t"),
        ("DROP INDEX i", "DROP INDEX i"),
        ("COMMIT; DELETE FROM t", "COMMIT DELETE t"),
        ("CALL work(1)", "CALL work"),
        ("PRAGMA foreign_keys", "PRAGMA"),
        ("EXPLAIN ANALYZE SELECT 1 FROM t", "EXPLAIN ANALYZE SELECT t"),
        ("/* a */ SELECT 1", "SELECT"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_summaries(statement, summary):
    assert describe(statement, "postgresql")[1] == summary


def test_a_summary_has_255_characters_at_most():
    summary = describe("SELECT 1 FROM " + ", ".join(f"table{number}" for number in range(100)), "sqlite")[1]
    assert summary.startswith("SELECT table0 table1 ")
    assert 240 < len(summary) <= 255
    assert describe("SELECT 1 FROM " + "t" * 300, "sqlite")[1] == "SELECT"
    assert describe("SELECT 1 FROM t" + ".t" * 300, "sqlite")[1].count("t") < 130


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "part", ["'", '"', "$a$ $b$ ", "/* ", "-- \n", "(", "a,", "0x", "E'\\", "1e", "[", "q'[", "FROM a."]
)
def test_the_work_is_bounded_for_statements_of_10_mb(dialect, part):
    statement = "SELECT " + part * (10_000_000 // len(part))
    steps = 0

    def count(frame, event, argument):
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        text, summary = describe(statement, dialect)
    finally:
        sys.setprofile(None)
    assert len(text) <= MAX_QUERY
    assert len(summary) <= 255
    assert steps < 20 * MAX_QUERY


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["sqlite", "postgresql"]),
    st.lists(st.sampled_from(["SELECT ", "a", "=", "'{}'", "''", "(", ")", ",", " ", "\n", "-- x\n", "/* x */", "7"])),
)
def test_no_string_is_left(dialect, parts):
    statement = " ".join(parts).replace("{}", "SECRET")
    assert "SECRET" not in describe(statement, dialect)[0]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(DIALECTS), st.text(max_size=200))
def test_any_text_is_taken(dialect, statement):
    text, summary = describe(statement, dialect)
    assert len(text) <= len(statement)
    assert len(summary) <= 255
