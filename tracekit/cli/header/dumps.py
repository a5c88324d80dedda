"""Headers from the forms that people have at hand: ``curl -v``, raw HTTP, a HAR file or other JSON, an environment."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_BYTES = 16 * 1024 * 1024

_EXPECTED = (
    "expected 'name: value' lines, a curl -v dump, a raw HTTP message, a HAR file, JSON of headers, or what env prints"
)
_LINE = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)([:=])(.*)", re.DOTALL)
# Values that people paste without the name, of headers that look like no other.
_BARE = (
    ("traceparent", re.compile(r"[0-9a-fA-F]{2}-[0-9a-fA-F]{32}-")),
    ("b3", re.compile(r"(?:[0-9a-fA-F]{16}){1,2}-[0-9a-fA-F]{16}(?:-|$)")),
    ("uber-trace-id", re.compile(r"[0-9a-fA-F]{1,32}(?::|%3A)[0-9a-fA-F]{1,16}(?::|%3A)")),
    ("X-Amzn-Trace-Id", re.compile(r"(?:Root|Self)=1-|Parent=[0-9a-f]{16}")),
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CURL = re.compile(r"^[<>] (?:HTTP/[\d.]+ \d|[A-Z]+ \S+ HTTP/)", re.MULTILINE)
_START = re.compile(r"(?:HTTP/[\d.]+ (?P<status>\d{3})\b|(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+\s*$)")


class DumpError(ValueError):
    """Raised when the input contains no headers; the message names the inputs that are supported."""


class Message(NamedTuple):
    """The headers of one request or response, or the variables of an environment, in their order."""

    title: str
    fields: list[tuple[str, str]]
    is_environ: bool = False


def read_arguments(arguments: Sequence[str]) -> list[Message]:
    """Return the headers and variables in *arguments*, each a ``name: value`` or ``NAME=value``."""
    headers, variables = Message("", []), Message("", [], is_environ=True)
    for argument in arguments:
        bare = next((name for name, shape in _BARE if shape.match(argument)), None)
        if bare is not None:
            raise DumpError(f"a value without its name: did you mean {f'{bare}: {argument}'[:100]!a}?")
        if not _add(argument, headers, variables):
            raise DumpError(f"no header: {argument[:80]!a}: expected 'name: value' or 'NAME=value'")
    return [message for message in (headers, variables) if message.fields]


def read_dump(octets: bytes) -> list[Message]:
    """Return the messages that a dump of at most 16 MiB holds."""
    if len(octets) > MAX_BYTES:
        raise DumpError(f"more than {MAX_BYTES // 2**20} MiB: {_EXPECTED}")
    text = _decode(octets)
    complaint = ""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return list(_from_json(json.loads(text)))
        except (ValueError, RecursionError) as error:
            # A dump can begin with a brace too: curl writes "{ [5 bytes data]".
            where = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            complaint = f"no JSON{where}: "
    messages = [message for message in _from_text(text) if message.fields]
    if not messages:
        raise DumpError(f"{complaint}{'nothing came' if not text.strip() else 'no headers'}: {_EXPECTED}")
    return messages


def _decode(octets: bytes) -> str:
    if octets[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell redirects
        return octets.decode("utf-16", "replace")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        return octets.decode("latin-1")  # the encoding of headers, if they have one


def _add(line: str, headers: Message, variables: Message) -> bool:
    found = _LINE.match(line)
    if found is None:
        return False
    name, sign, value = found.groups()
    if sign == ":":
        headers.fields.append((name, value.strip(" \t")))
    elif _VARIABLE.fullmatch(name):
        variables.fields.append((name, value))
    else:
        return False
    return True


def _from_text(text: str) -> list[Message]:
    # /proc/PID/environ and env -0 end each variable with NUL.
    lines = text.split("\0" if text.endswith("\0") else "\n")
    is_curl = _CURL.search(text) is not None
    variables = Message("environment", [], is_environ=True)
    message = Message("headers", [])
    messages = [message]
    in_body = False
    for line in lines:
        line = line.rstrip("\r")
        if is_curl:
            if line[:2] not in ("> ", "< "):  # progress, bodies, "* Connected to"
                continue
            line = line[2:]
        start = _START.match(line)
        if start is not None:
            message = Message(_title(start["method"], start["target"], start["status"]), [])
            messages.append(message)
            in_body = False
        elif not line.strip():
            in_body = message.title != "headers"
        elif not in_body:
            _add(line, message, variables)
    return [*messages, variables]


def _from_json(document: Any) -> Iterator[Message]:
    """Yield the headers of each request and response of a HAR file, or those that *document* itself is."""
    waiting = [document]
    is_first = True
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            fields = list(_fields(value.get("headers")))
            if fields:
                yield Message(_title(value.get("method"), value.get("url"), value.get("status")), fields)
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
        if is_first and isinstance(value, dict | list):
            fields = list(_fields(value))
            names = [name for name, _ in fields]
            is_environ = bool(names) and all(_VARIABLE.fullmatch(name) and name == name.upper() for name in names)
            if fields:
                yield Message("environment" if is_environ else "headers", fields, is_environ)
        is_first = False


def _fields(headers: Any) -> Iterator[tuple[str, str]]:
    """Yield names and values: *headers* is an object of texts or of lists, a list of pairs, or the list of a HAR file."""
    pairs: list[Any] = []
    if isinstance(headers, dict):
        pairs = list(headers.items())
    elif isinstance(headers, list):
        pairs = [(item.get("name"), item.get("value")) if isinstance(item, dict) else item for item in headers]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            continue
        for value in pair[1] if isinstance(pair[1], list) else [pair[1]]:
            if isinstance(value, str):
                yield pair[0], value.strip(" \t")


def _title(method: object, target: object, status: object) -> str:
    if isinstance(method, str) and isinstance(target, str):
        return f"request {method} {re.split('[?#]', target, maxsplit=1)[0]}"  # the query may be secret
    if isinstance(status, str | int):
        return f"response {str(status)[:3]}"
    return "headers"
