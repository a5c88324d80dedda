"""The language of the search box: words, and conditions that one span of a trace must all meet.

word                the name contains it, in any case; 8 to 32 hexadecimal digits: the trace id begins with it
service:shop        also name: kind: status: trace:
>100ms  <2s         the duration; units ns us ms s m h, without one ms
since:15m  until:5m the start: so long ago, or a date and time such as 2030-01-31T12:00
key=value           an attribute, label or resource attribute; key=* for any value
"two words"         quotes keep spaces together
"""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any, NamedTuple

from .._core.attributes import whole
from .._core.records import KINDS, STATUS_CODES
from ..exporters._sqlite.resources import RESOURCE
from ..exporters._sqlite.terms import key_term, term

_MAX_TEXT, _MAX_TERMS = 1000, 20
_MAX_NS = (1 << 63) - 1024  # as SQLite holds it; a float has it exactly
_TOKEN = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+|"')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)?\Z")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNITS["d"] = 24 * _UNITS["h"]
_HAS_TERM = "bits & ? = ? AND instr(terms, ?) IS NOT 0"  # terms that are unknown, NULL, may have any
_ID = re.compile(r"[0-9a-f]{8,32}\Z")


class BadSearch(ValueError):
    """Raised for a search that cannot be understood; the message says why."""


class Search(NamedTuple):
    """Conditions in SQL about a row of ``spans`` with their parameters, and the beginning of a trace id.

    Conditions on columns of the index of searches come first. ``casefold()`` is a function of ``Queries``.
    """

    conditions: tuple[str, ...] = ()
    parameters: tuple[Any, ...] = ()
    trace_id: str = ""


def parse_search(text: str, now_ns: int | None = None) -> Search:
    """Return the conditions of *text*; raise ``BadSearch``."""
    if len(text) > _MAX_TEXT:
        raise BadSearch(f"at most {_MAX_TEXT} characters")
    tokens = _TOKEN.findall(whole(text))
    if len(tokens) > _MAX_TERMS:
        raise BadSearch(f"at most {_MAX_TERMS} conditions")
    now_ns = time.time_ns() if now_ns is None else now_ns
    conditions: list[str] = []
    parameters: list[Any] = []
    trace_id = ""
    for token in tokens:
        condition, found, prefix = _term(token, now_ns)
        if prefix:
            trace_id = prefix
        else:
            conditions.append(condition)
            parameters += found
    return Search(tuple(conditions), tuple(parameters), trace_id)


def _term(token: str, now_ns: int) -> tuple[str, list[Any], str]:
    if token == '"':
        raise BadSearch("a quote is not closed")
    plain = _QUOTED.sub(lambda found: re.sub(r"\\(.)", r"\1", found[1]), token)
    if token[0] in "<>":
        sign = ">=" if token[0] == ">" else "<="
        return f"end_ns - start_ns {sign} ?", [_duration(plain[1:].removeprefix("="))], ""
    field, colon, value = plain.partition(":")
    if colon and not token.startswith('"') and "=" not in field:
        if field in ("service", "name", "kind", "status", "trace", "since", "until"):
            return _field(field, value, now_ns)
        if not value.startswith("//"):
            raise BadSearch(f"unknown field {field[:40]!r}: service, name, kind, status, trace, since or until")
    key, equals, value = plain.partition("=")
    if equals and key and not token.startswith('"'):
        return _attribute(key, value)
    if not token.startswith('"') and _ID.match(plain.lower()):
        return "", [], plain.lower()
    return _name(plain)


def _field(field: str, value: str, now_ns: int) -> tuple[str, list[Any], str]:
    if not value:
        raise BadSearch(f"{field}: needs a value")
    if field == "name":
        return _name(value)
    if field == "trace":
        if not re.fullmatch(r"[0-9a-f]{1,32}", value.lower()):
            raise BadSearch("a trace id has hexadecimal digits")
        return "", [], value.lower()
    if field in ("since", "until"):
        sign = ">=" if field == "since" else "<="
        return f"start_ns {sign} ?", [_moment(value, now_ns)], ""
    known = {"kind": KINDS, "status": STATUS_CODES}.get(field)
    if known is not None and value not in known:
        raise BadSearch(f"{field} is one of {', '.join(known)}")
    return f"{field} = ?", [value], ""


def _name(text: str) -> tuple[str, list[Any], str]:
    if not text.isascii():  # SQLite's LIKE ignores the case of ASCII letters alone
        return "instr(casefold(name), ?)", [text.casefold()], ""
    for char, escape in (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_")):
        text = text.replace(char, escape)
    return "name LIKE ? ESCAPE '\\'", [f"%{text}%"], ""


def _attribute(key: str, value: str) -> tuple[str, list[Any], str]:
    # The columns hold compact JSON, in which a key stands between quotes that no text can contain.
    start = f"{json.dumps(key, ensure_ascii=False)}:"
    wanted = [start + json.dumps(value, ensure_ascii=False), f"{start}{value},", f"{start}{value}}}"]
    columns = ("attributes", "labels", RESOURCE)
    if value == "*":
        tests = " OR ".join([f"instr({column}, ?)" for column in columns])
        return f"{_HAS_TERM} AND ({tests})", [*_parts(key_term(key)), *[start] * len(columns)], ""
    tests = " OR ".join([f"instr({column}, ?)" for column in columns for _ in wanted])
    # Mostly one: those of an array or object, which holds quotes, and of a text with quotes differ.
    codes = sorted({term(key, json.dumps(value, ensure_ascii=False)), term(key, value or '""')})
    has_one = " OR ".join([_HAS_TERM] * len(codes))
    return (
        f"({has_one}) AND ({tests})",
        [*[part for code in codes for part in _parts(code)], *wanted * len(columns)],
        "",
    )


def _parts(code: tuple[bytes, int]) -> tuple[int, int, bytes]:
    octets, bits = code
    return bits, bits, octets


def _duration(text: str) -> int:
    found = _DURATION.match(text)
    if found is None:
        raise BadSearch(f"not a duration: {text[:40]!r}; such as 100ms or 2s")
    return int(min(float(found[1]) * _UNITS[found[2] or "ms"], _MAX_NS))


def _moment(text: str, now_ns: int) -> int:
    if _DURATION.match(text):
        return max(now_ns - _duration(text), 0)
    try:
        seconds = int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise BadSearch(f"not a time: {text[:40]!r}; such as 15m or 2030-01-31T12:00") from None
    return min(max(seconds * 10**9, 0), _MAX_NS)
