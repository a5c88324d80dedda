"""Statements of SQL without their literals, and a short summary of each.

One pass of a regular expression over the first 8192 characters, without backtracking: the time is linear, and bounded.
It knows strings, numbers, comments, quoted names and words, and nothing of grammar; so it takes every dialect, and
invalid statements. A literal that it does not recognize as one would be recorded, so where dialects differ, the name of
the dialect decides:

- a backslash escapes a quote in MySQL and others, in PostgreSQL only in ``E'...'``;
- a double quote begins a string in MySQL, and a name elsewhere;
- a bracket quotes a name in SQL Server, and indexes an array elsewhere;
- ``q'[...]'`` is a string in Oracle.

Strings that do not end extend to the end of the text.
"""

from __future__ import annotations

import functools
import re
from typing import Final

MAX_QUERY: Final = 8192  # characters of a statement that are read
_MAX_SUMMARY: Final = 255  # as the semantic conventions say

_BACKSLASHES: Final = frozenset(
    {"bigquery", "clickhouse", "databricks", "hive", "mariadb", "mysql", "snowflake", "spark"}
)
_STRINGS_IN_DOUBLE_QUOTES: Final = frozenset({"bigquery", "databricks", "hive", "mariadb", "mysql", "spark"})

_PAIRS: Final = ((r"\[", r"\]"), (r"\{", r"\}"), (r"\(", r"\)"), ("<", ">"))

# Verbs that a summary names at the beginning of a statement; the second group takes the kind of object with it.
_VERBS: Final = frozenset(
    """
    ANALYZE BEGIN CALL COMMIT COPY DELETE EXEC EXECUTE EXPLAIN GRANT INSERT LISTEN LOCK MERGE NOTIFY PRAGMA
    RELEASE REPLACE REVOKE ROLLBACK SAVEPOINT SELECT SET SHOW START TRUNCATE UPDATE USE VACUUM
    """.split()  # noqa: SIM905 - a word a line would be a page
)
_OF_OBJECTS: Final = frozenset({"ALTER", "CREATE", "DROP"})
_OBJECTS: Final = frozenset(
    {"DATABASE", "FUNCTION", "INDEX", "PROCEDURE", "SCHEMA", "SEQUENCE", "TABLE", "TRIGGER", "TYPE", "USER", "VIEW"}
)
# Before a verb inside a statement: "WITH a AS (...) INSERT", but not "FOR UPDATE" and "ON DELETE CASCADE".
_BEFORE_VERBS: Final = frozenset({"", ";", "(", ")", "ALL", "ANALYZE", "AS", "EXCEPT", "EXPLAIN", "INTERSECT", "UNION"})
_BEFORE_TARGETS: Final = frozenset({"FROM", "INTO", "JOIN", "TABLE"})
_WITH_TARGETS: Final = frozenset({"CALL", "EXEC", "EXECUTE", "TRUNCATE", "UPDATE"})
_NO_TARGETS: Final = frozenset({"EXISTS", "IF", "IGNORE", "INTO", "LATERAL", "NOT", "ONLY", "TABLE"})
_AFTER_TABLES: Final = frozenset(
    """
    CROSS EXCEPT FETCH FOR FULL GROUP HAVING INNER INTERSECT LEFT LIMIT NATURAL OFFSET ON ORDER OUTER RETURNING
    RIGHT SET UNION USING VALUES WHERE WINDOW
    """.split()  # noqa: SIM905 - a word a line would be a page
)


def describe(statement: str, dialect: str) -> tuple[str, str]:
    """Return the *statement* of a SQLAlchemy *dialect* with ``?`` for each literal, and its summary, "" if unknown.

    Only the first 8192 characters are read.
    """
    if len(statement) > MAX_QUERY:
        # Longer ones are rarely repeated.
        return _describe.__wrapped__(statement[:MAX_QUERY], dialect)
    return _describe(statement, dialect)


@functools.lru_cache(maxsize=512)  # 4 MB at most, and as much again for the results
def _describe(statement: str, dialect: str) -> tuple[str, str]:
    kept: list[str] = []
    summary = _Summary()
    for token in _tokens(dialect).finditer(statement):
        kind, text = token.lastgroup, token.group()
        if kind in ("literal", "prefixed"):
            kept.append("?")
            summary.add("?")
        elif kind == "comment":
            kept.append(" ")
        else:
            kept.append(text)
            if kind == "word":
                summary.word(text)
            elif kind == "name":
                summary.name(text)
            elif kind == "mark":
                summary.add(text)
    return "".join(kept).strip(), summary.text()


@functools.lru_cache(maxsize=64)
def _tokens(dialect: str) -> re.Pattern[str]:
    """Return a pattern that matches at every position; its last group is the kind of token."""
    escaped = r"'[^'\\]*+(?:(?:''|\\.)[^'\\]*+)*+(?:'|\\?\Z)"
    plain = r"'[^']*+(?:''[^']*+)*+(?:'|\Z)"
    literals = [
        escaped if dialect in _BACKSLASHES else plain,
        r"0[xX][0-9a-fA-F]++",
        r"(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?",
    ]
    names = [r"`[^`]*+(?:``[^`]*+)*+(?:`|\Z)"]
    double = r'"[^"]*+(?:""[^"]*+)*+(?:"|\Z)'
    if dialect in _STRINGS_IN_DOUBLE_QUOTES:
        literals.append(escaped.replace("'", '"'))
    else:
        names.append(double)
    if dialect == "mssql":
        names.append(r"\[[^\]]*+(?:\]\][^\]]*+)*+(?:\]|\Z)")
    prefixed = [rf"[eE]{escaped}", r"\$(?P<tag>(?:[^\W\d]\w*+)?)\$.*?(?:\$(?P=tag)\$|\Z)"]
    if dialect == "oracle":
        ends = "|".join(rf"{first}.*?(?:{last}'|\Z)" for first, last in _PAIRS)
        prefixed.append(rf"[nN]?[qQ]'(?:{ends}|(?P<end>\S).*?(?:(?P=end)'|\Z))")
    comments = [r"--[^\n]*+", r"/\*.*?(?:\*/|\Z)"]
    if dialect in ("mysql", "mariadb"):
        comments.append(r"#[^\n]*+")
    kinds = {
        "space": [r"\s++"],
        "comment": comments,
        "prefixed": prefixed,
        "word": [r"[^\W\d][\w$]*+", r"[$@:]\w++"],
        "literal": literals,
        "name": names,
        "mark": ["."],
    }
    return re.compile("|".join(f"(?P<{kind}>{'|'.join(ways)})" for kind, ways in kinds.items()), re.DOTALL)


class _Summary:
    """Collects the operations of a statement and the tables that they are about, in order."""

    __slots__ = ("_before", "_in_tables", "_is_open", "_parts", "_queries", "_size", "_waits")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._before = ""  # the word or the mark before, in upper case
        self._queries = [False]  # for each open parenthesis, whether a query is in it: FROM is one of its clauses
        self._waits = ""  # "target" before the name of a table, "object" after CREATE
        self._is_open = False  # whether a dot may continue the last name
        self._in_tables = False  # whether a comma is followed by another table

    def text(self) -> str:
        return " ".join(self._parts)

    def word(self, text: str) -> None:
        """Take a word of the statement: a keyword or a name."""
        if self._is_open and self._before == ".":
            self.name(text)
            return
        upper = text.upper()
        if self._waits == "object" and upper in _OBJECTS:
            self._append(upper)
            self._waits = "target"
        elif upper == "SELECT" or (upper in _VERBS and self._before in _BEFORE_VERBS):
            self._append(upper)
            self._queries[-1] = True
            self._waits = "target" if upper in _WITH_TARGETS else ""
            self._in_tables = False
        elif upper in _OF_OBJECTS and self._before in _BEFORE_VERBS:
            self._append(upper)
            self._waits = "object"
        elif upper in _BEFORE_TARGETS and self._queries[-1] and self._before != "DISTINCT":
            self._waits = "target"
            self._in_tables = upper == "FROM"
        elif self._waits == "target" and upper not in _NO_TARGETS:
            self.name(text)
            return
        elif upper in _AFTER_TABLES:
            self._in_tables = False
        self._is_open = False
        self._before = upper

    def name(self, text: str) -> None:
        if self._is_open and self._before == ".":
            self._size += len(text) + 1
            if self._size <= _MAX_SUMMARY + 1:
                self._parts[-1] += f".{text}"
        elif self._waits == "target":
            self._append(text)
            self._is_open = True
            self._waits = ""
        else:
            self._is_open = False
        self._before = "name"

    def add(self, mark: str) -> None:
        """Take a mark: an operator, a parenthesis, or ``?`` for a literal."""
        if mark == "(":
            self._queries.append(False)
            self._waits = ""
        elif mark == ")":
            if len(self._queries) > 1:
                self._queries.pop()
        elif mark == ";":
            self._queries = [False]
            self._waits, self._in_tables = "", False
        elif mark == "," and self._in_tables and self._queries[-1]:
            self._waits = "target"
        elif mark != ".":
            self._waits = ""
        if mark != ".":
            self._is_open = False
        self._before = mark

    def _append(self, part: str) -> None:
        self._size += len(part) + 1
        if self._size <= _MAX_SUMMARY + 1:
            self._parts.append(part)
        else:
            self._size = _MAX_SUMMARY + 2  # no shorter part after one that was left out
