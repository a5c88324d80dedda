"""The checks of ``tracekit conform``: requests to a service, and conditions on the headers that it sends on.

All of it comes from the specifications; nothing here knows how tracekit itself reads or writes a header.

Specs: https://www.w3.org/TR/trace-context-2/ and https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")

Header: TypeAlias = tuple[str, str]
Callback: TypeAlias = dict[str, list[str]]  # the values of each trace header that the service sent, in order


class Rule(NamedTuple):
    """A condition on the callbacks of one request."""

    text: str
    holds: Callable[[Sequence[Callback]], bool]


class Check(NamedTuple):
    """One request and its expected callbacks; *section* is the section of the specification that requires them."""

    name: str
    section: str
    sent: tuple[Header, ...]
    must: tuple[Rule, ...]
    calls: int = 1


def problems(check: Check, received: Sequence[Callback]) -> Iterator[str]:
    """Yield the rules of *check* that the callbacks *received* break, in words."""
    for rule in check.must:
        if not rule.holds(received):
            yield rule.text
            if rule is _VALID:  # there are no ids to say anything about
                return


# ---- conditions on callbacks

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_STATE_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_BAGGAGE_MEMBER = re.compile(
    rf"{_TOKEN}[ \t]*=[ \t]*{_VALUE}[ \t]*(?:;[ \t]*{_TOKEN}[ \t]*(?:=[ \t]*{_VALUE}[ \t]*)?)*"
)
_MAX_STATE_MEMBERS = 32


def _fields(callback: Callback) -> tuple[str, str, int]:
    """Return trace-id, parent-id and flags of a callback for which ``_VALID`` holds."""
    found = _TRACEPARENT.fullmatch(callback["traceparent"][0])
    assert found is not None
    return found[1], found[2], int(found[3], 16)


def _pieces(callback: Callback, name: str) -> list[str]:
    """Return the members of all headers called *name*, which are one list, but the empty ones."""
    pieces = [piece.strip(" \t") for piece in ",".join(callback[name]).split(",")]
    return [piece for piece in pieces if piece]


def _entry(piece: str) -> tuple[str, str, tuple[tuple[str, str | None], ...]]:
    """Return a member of baggage decoded: key, value and properties."""
    (key, _, value), *more = [part.partition("=") for part in piece.split(";")]
    properties = [
        (name.strip(" \t"), unquote(setting.strip(" \t")) if equals else None) for name, equals, setting in more
    ]
    return key.strip(" \t"), unquote(value.strip(" \t")), tuple(properties)


def _in_order(wanted: Sequence[Any], found: Sequence[Any]) -> bool:
    """Return whether *found* has all that is *wanted*, in this order, whatever else it has."""
    rest = iter(found)
    return all(one in rest for one in wanted)


def _listed(members: Sequence[str]) -> str:
    return ", ".join(members) + (", in this order" if len(members) > 1 else "")


def _each(text: str, holds: Callable[[Callback], bool]) -> Rule:
    return Rule(text, lambda callbacks: all(map(holds, callbacks)))


def _is_valid(callback: Callback) -> bool:
    values = callback["traceparent"]
    return len(values) == 1 and _TRACEPARENT.fullmatch(values[0]) is not None


def _fresh(*sent: Header) -> Rule:
    """Return the rule that the trace-id contains no part of a *sent* one, truncated, padded or folded."""
    texts = [value.lower() for _, value in sent]
    return _each(
        "the trace-id must be a new one", lambda call: not any(_fields(call)[0][8:24] in text for text in texts)
    )


def _has(*members: str) -> Rule:
    return _each(
        f"tracestate must have {_listed(members)}", lambda call: _in_order(members, _pieces(call, "tracestate"))
    )


def _lacks(*keys: str) -> Rule:
    return _each(
        f"tracestate must not have {', '.join(keys)}",
        lambda call: not any(piece.startswith(f"{key}=") for piece in _pieces(call, "tracestate") for key in keys),
    )


def _only_whole(name: str, *members: str) -> Rule:
    """Return the rule that of *members* each has arrived as it was sent, or not at all."""
    by_key = {member.partition("=")[0]: member for member in members}
    return _each(
        f"a member of {name} must be passed on whole, or not at all",
        lambda call: all(by_key.get(piece.partition("=")[0], piece) == piece for piece in _pieces(call, name)),
    )


def _carries(*members: str) -> Rule:
    entries = [_entry(member) for member in members]
    return _each(
        f"baggage must mean {_listed(members)}",
        lambda call: _in_order(entries, [_entry(piece) for piece in _pieces(call, "baggage")]),
    )


_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

_VALID = _each("there must be one traceparent of version 00, with lowercase hex ids that are not all zeros", _is_valid)
_CONTINUED = _each("the trace-id must be the one sent", lambda call: _fields(call)[0] == _TRACE)
_NEW_PARENT = _each("the parent-id must not be the one sent", lambda call: _fields(call)[1] != _SPAN)
_ONE_TRACE = Rule("all callbacks must be in one trace", lambda calls: len({_fields(call)[0] for call in calls}) == 1)
_OWN_PARENTS = Rule(
    "each callback must have a parent-id of its own",
    lambda calls: len({_fields(call)[1] for call in calls}) == len(calls),
)
_RANDOM = _each("the random flag (02) must be set", lambda call: _fields(call)[2] & 2 == 2)
_NOT_RANDOM = _each("the random flag (02) must not be set", lambda call: _fields(call)[2] & 2 == 0)
_NO_OTHER_FLAGS = _each("flags other than 01 and 02 must be zero", lambda call: _fields(call)[2] & ~3 == 0)
_LEGAL_STATE = _each(
    f"tracestate, if any, must be a list of key=value by the grammar, of at most {_MAX_STATE_MEMBERS}",
    lambda call: (
        len(_pieces(call, "tracestate")) <= _MAX_STATE_MEMBERS
        and all(map(_STATE_MEMBER.fullmatch, _pieces(call, "tracestate")))
    ),
)
_LEGAL_BAGGAGE = _each(
    "baggage, if any, must be a list of key=value by the grammar",
    lambda call: all(map(_BAGGAGE_MEMBER.fullmatch, _pieces(call, "baggage"))),
)


# ---- the checks

_TRACE_CONTEXT, _BAGGAGE = "https://www.w3.org/TR/trace-context-2/#", "https://www.w3.org/TR/baggage/#"


def _parent(
    version: str = "00",
    trace: str = _TRACE,
    span: str = _SPAN,
    flags: str = "01",
    *,
    more: str = "",
    name: str = "traceparent",
) -> Header:
    return name, f"{version}-{trace}-{span}-{flags}{more}"


def _starts(name: str, section: str, sent: tuple[Header, ...], *must: Rule, calls: int = 1) -> Check:
    return Check(f"traceparent: {name}", _TRACE_CONTEXT + section, sent, (_VALID, *must), calls)


def _continues(name: str, section: str, sent: Header, *must: Rule, calls: int = 1) -> Check:
    return _starts(name, section, (sent,), _CONTINUED, *must, calls=calls)


def _restarts(name: str, section: str, *sent: Header) -> Check:
    return _starts(name, section, sent, _fresh(*sent))


def _state(name: str, section: str, texts: Sequence[str], *must: Rule, header: str = "tracestate") -> Check:
    """Return a check of *texts*, a header each: valid or not, the trace continues, and every header sent is valid."""
    sent = (_parent(flags="00"), *[(header, text) for text in texts])
    return Check(f"tracestate: {name}", _TRACE_CONTEXT + section, sent, (_VALID, _CONTINUED, _LEGAL_STATE, *must))


def _discarded(name: str, section: str, *parents: Header) -> Check:
    sent = (*parents, ("tracestate", "foo=1"))
    return Check(f"tracestate: {name}", _TRACE_CONTEXT + section, sent, (_VALID, _lacks("foo")))


def _baggage(name: str, section: str, texts: Sequence[str], *must: Rule, parent: Header | None = None) -> Check:
    sent = (parent or _parent(), *[("baggage", text) for text in texts])
    return Check(f"baggage: {name}", _BAGGAGE + section, sent, (_LEGAL_BAGGAGE, *must))


_RECEIVED, _VERSIONS = "a-traceparent-is-received", "versioning-of-traceparent"  # sections
_OWS = "\t "
_STATE_KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
_STATE_VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
_MEMBERS = [f"k{at:02d}={at}" for at in range(33)]
_LONG = [f"k{at:02d}={'v' * 100}" for at in range(32)]
_512 = [f"k{at}={'v' * 60}" for at in range(7)] + [f"k7={'v' * 61}"]
_64 = [f"key{at}=value" for at in range(64)]
_8192 = f"key={'0123456789' * 818}01234567"
_TOO_MUCH = [f"key{at}={'v' * 125}" for at in range(64)]

CHECKS: Final = (
    # ---- starting and continuing
    _starts("a request without one starts a trace", "no-traceparent-received", ()),
    _starts(
        "a new trace has one trace-id, and a parent-id for each call",
        "no-traceparent-received",
        (),
        _ONE_TRACE,
        _OWN_PARENTS,
        calls=3,
    ),
    _continues("a trace is continued", _RECEIVED, _parent()),
    _continues("a trace that is not sampled is continued", _RECEIVED, _parent(flags="00")),
    _starts("the parent-id sent on is a new one", _RECEIVED, (_parent(),), _NEW_PARENT),
    _continues(
        "each call of a continued trace has a parent-id of its own", _RECEIVED, _parent(), _OWN_PARENTS, calls=3
    ),
    _starts(
        "all calls of a restarted trace are in one",
        _RECEIVED,
        (_parent(trace="0" * 32),),
        _ONE_TRACE,
        _OWN_PARENTS,
        calls=3,
    ),
    # ---- the header
    _continues("the name in title case", "traceparent-header", _parent(name="TraceParent")),
    _continues("the name in upper case", "traceparent-header", _parent(name="TRACEPARENT")),
    _continues("the name in mixed case", "traceparent-header", _parent(name="tRaCePaReNt")),
    _restarts("trace-parent is another header", "traceparent-header", _parent(name="trace-parent")),
    _restarts("trace.parent is another header", "traceparent-header", _parent(name="trace.parent")),
    _continues("white space before it", "traceparent-header", ("traceparent", f" {_OWS}{_parent()[1]}")),
    _continues("white space after it", "traceparent-header", ("traceparent", f"{_parent()[1]} {_OWS}")),
    _restarts(
        "two of them are none",
        "traceparent-header-field-values",
        _parent(),
        _parent(trace="0af7651916cd43dd8448eb211c80319c", span="b7ad6b7169203331"),
    ),
    _restarts("an empty one is none", "traceparent-header-field-values", ("traceparent", "")),
    _restarts("other separators", "traceparent-header-field-values", ("traceparent", _parent()[1].replace("-", "_"))),
    # ---- version
    _restarts("version ff is forbidden", "version", _parent("ff")),
    _restarts("a version of one digit", "version", _parent("0")),
    _restarts("a version of three digits", "version", _parent("000")),
    _restarts("a version in upper case", "version", _parent("CC")),
    _restarts("a version that is no hex", "version", _parent("0.")),
    _restarts("version 00 with a dot behind it", "version-format", _parent(more=".")),
    _restarts("version 00 with a dash behind it", "version-format", _parent(more="-")),
    _restarts("version 00 with more fields", "version-format", _parent(more="-what-comes-next")),
    _continues("a higher version, as long as 00", _VERSIONS, _parent("cc")),
    _continues("a higher version with more fields", _VERSIONS, _parent("cc", more="-what-comes-next")),
    _continues("a higher version with an empty field", _VERSIONS, _parent("cc", more="-")),
    _restarts("a higher version with a dot behind it", _VERSIONS, _parent("cc", more=".next")),
    _restarts("a higher version cut short", _VERSIONS, _parent("cc", flags="0")),
    _restarts("a higher version with a bad trace-id", _VERSIONS, _parent("cc", f".{_TRACE[1:]}")),
    _restarts("a higher version with a bad parent-id", _VERSIONS, _parent("cc", span=f".{_SPAN[1:]}")),
    _continues("of a higher version's flags only those known", _VERSIONS, _parent("cc", flags="ff"), _NO_OTHER_FLAGS),
    # ---- trace-id
    _restarts("a trace-id of zeros", "trace-id", _parent(trace="0" * 32)),
    _restarts("a trace-id in upper case", "trace-id", _parent(trace=_TRACE.upper())),
    _restarts("a trace-id with one upper-case digit", "trace-id", _parent(trace=f"{_TRACE[:1]}B{_TRACE[2:]}")),
    _restarts("a trace-id that begins with no hex", "trace-id", _parent(trace=f".{_TRACE[1:]}")),
    _restarts("a trace-id that ends with no hex", "trace-id", _parent(trace=f"{_TRACE[:-1]}g")),
    _restarts("a trace-id of 33 digits", "trace-id", _parent(trace=f"{_TRACE}0")),
    _restarts("a trace-id of 31 digits", "trace-id", _parent(trace=_TRACE[1:])),
    _restarts("a trace-id of 16 digits", "trace-id", _parent(trace=_TRACE[16:])),
    # ---- parent-id
    _restarts("a parent-id of zeros", "parent-id", _parent(span="0" * 16)),
    _restarts("a parent-id in upper case", "parent-id", _parent(span=_SPAN.upper())),
    _restarts("a parent-id that begins with no hex", "parent-id", _parent(span=f".{_SPAN[1:]}")),
    _restarts("a parent-id that ends with no hex", "parent-id", _parent(span=f"{_SPAN[:-1]}g")),
    _restarts("a parent-id of 17 digits", "parent-id", _parent(span=f"{_SPAN}0")),
    _restarts("a parent-id of 15 digits", "parent-id", _parent(span=_SPAN[1:])),
    # ---- trace-flags
    _restarts("flags that are no hex", "trace-flags", _parent(flags=".0")),
    _restarts("flags in upper case", "trace-flags", _parent(flags="0A")),
    _restarts("flags of one digit", "trace-flags", _parent(flags="1")),
    _restarts("flags of three digits", "trace-flags", _parent(flags="001")),
    _continues("the random flag stays set", "random-trace-id-flag", _parent(flags="02"), _RANDOM),
    _continues("the random flag stays set beside sampled", "random-trace-id-flag", _parent(flags="03"), _RANDOM),
    _continues("the random flag stays unset", "random-trace-id-flag", _parent(flags="01"), _NOT_RANDOM),
    _continues("unknown flags are not passed on", "other-flags", _parent(flags="ff"), _NO_OTHER_FLAGS),
    # ---- tracestate
    _state("it is passed on", _RECEIVED, ["foo=1"], _has("foo=1")),
    _state(
        "its order is kept", "mutating-the-tracestate-field", ["foo=1,bar=2,baz=3"], _has("foo=1", "bar=2", "baz=3")
    ),
    _state("the name in title case", "tracestate-header", ["foo=1"], _has("foo=1"), header="TraceState"),
    _state("the name in upper case", "tracestate-header", ["foo=1"], _has("foo=1"), header="TRACESTATE"),
    _state("trace-state is another header", "tracestate-header", ["foo=1"], _lacks("foo"), header="trace-state"),
    _state("trace.state is another header", "tracestate-header", ["foo=1"], _lacks("foo"), header="trace.state"),
    _state(
        "several headers are one list",
        "tracestate-header-field-values",
        ["foo=1,bar=2", "rojo=1", "baz=3"],
        _has("foo=1", "bar=2", "rojo=1", "baz=3"),
    ),
    _state("an empty header is legal", "tracestate-header-field-values", [""]),
    _state("an empty header before another", "tracestate-header-field-values", ["", "foo=1"], _has("foo=1")),
    _state("an empty header after another", "tracestate-header-field-values", ["foo=1", ""], _has("foo=1")),
    _state("empty members are legal", "list", [",foo=1,, \t ,bar=2,"], _has("foo=1", "bar=2")),
    _state("white space around members", "list", [" \t foo=1 \t , \t bar=2\t"], _has("foo=1", "bar=2")),
    _state("32 members", "list", [",".join(_MEMBERS[:32])], _has(*_MEMBERS[:32])),
    _state(
        "32 members in four headers",
        "list",
        [",".join(_MEMBERS[at : at + 8]) for at in range(0, 32, 8)],
        _has(*_MEMBERS[:32]),
    ),
    _state("33 members are too many", "list", [",".join(_MEMBERS)]),
    _state("a key of every character", "key", [f"{_STATE_KEY}=1"], _has(f"{_STATE_KEY}=1")),
    _state("a key that begins with a digit", "key", ["1a=1"], _has("1a=1")),
    _state("a key of a tenant and a system", "key", ["fw529a3039@dt=FfAAmQ"], _has("fw529a3039@dt=FfAAmQ")),
    _state("a key with any number of @", "key", ["foo@=1,foo@@bar=2,a@b@c=3"], _has("foo@=1", "foo@@bar=2", "a@b@c=3")),
    _state("a key of 256 characters", "key", [f"foo=1,{'z' * 256}=1"], _has("foo=1", f"{'z' * 256}=1")),
    _state("a key of 257 characters is not passed on", "key", [f"{'z' * 257}=1"], _lacks("z" * 257)),
    _state("a key that begins with @ is not passed on", "key", ["@foo=1"], _lacks("@foo")),
    _state("a key in upper case is not passed on", "key", ["FOO=1"], _lacks("FOO")),
    _state("a key with a dot is not passed on", "key", ["foo.bar=1"], _lacks("foo.bar")),
    _state("a key with a space is not passed on", "key", ["foo =1"], _lacks("foo ", "foo")),
    _state("a value of every character", "value", [f"foo={_STATE_VALUE}"], _has(f"foo={_STATE_VALUE}")),
    _state("a value that begins with spaces", "value", ["foo=  1"], _has("foo=  1")),
    _state("a value of 256 characters", "value", [f"foo={'v' * 256}"], _has(f"foo={'v' * 256}")),
    _state("a value of 257 characters is not passed on", "value", [f"foo={'v' * 257}"], _lacks("foo")),
    _state("an empty value is not passed on", "value", ["foo="], _lacks("foo")),
    _state("a value with an equals sign is not passed on", "value", ["foo=bar=baz"], _lacks("foo")),
    _state("a member without an equals sign does not end the trace", "list-members", ["foo"]),
    _state(
        "of equal keys one or all are passed on",
        "combined-header-value",
        ["foo=1,foo=2"],
        _each(
            "tracestate must have foo=1 or foo=2",
            lambda call: bool({"foo=1", "foo=2"} & {*_pieces(call, "tracestate")}),
        ),
    ),
    _state("512 characters are passed on", "tracestate-limits", [",".join(_512)], _has(*_512)),
    _state(
        "a long list is cut between members", "tracestate-limits", [",".join(_LONG)], _only_whole("tracestate", *_LONG)
    ),
    _state(
        "a list goes on with a higher version of traceparent", "versioning-of-tracestate", ["foo=1"], _has("foo=1")
    )._replace(sent=(_parent("cc", more="-what-comes-next"), ("tracestate", "foo=1"))),
    _discarded("without a traceparent it is discarded", "no-traceparent-received"),
    _discarded("with a bad traceparent it is discarded", _RECEIVED, _parent(trace=_TRACE.upper())),
    _discarded("with version ff it is discarded", _RECEIVED, _parent("ff")),
    _discarded("with two traceparents it is discarded", _RECEIVED, _parent(), _parent(trace=_TRACE[::-1])),
    # ---- baggage
    _baggage("it is passed on", "mutating-baggage", ["userId=alice"], _carries("userId=alice")),
    _baggage("its order is kept", "mutating-baggage", ["c=1,a=2,b=3"], _carries("c=1", "a=2", "b=3")),
    _baggage("several headers are one list", "header-content", ["a=1", "b=2,c=3"], _carries("a=1", "b=2", "c=3")),
    _baggage("the name in upper case", "header-name", [], _carries("a=1"))._replace(
        sent=(_parent(), ("BAGGAGE", "a=1"))
    ),
    _baggage(
        "white space wherever it may be",
        "definition",
        ["a \t = \t 1 \t ; \t p \t = \t 2 \t , \t b = 3"],
        _carries("a=1;p=2", "b=3"),
    ),
    _baggage("keys differ by case", "key", ["Key=1,key=2"], _carries("Key=1", "key=2")),
    _baggage("a key is not decoded", "key", ["a%20b=1"], _carries("a%20b=1")),
    _baggage("an empty value", "value", ["a=,b=2"], _carries("a=", "b=2")),
    _baggage("equals signs in a value", "value", ["a=b=c=="], _carries("a=b=c==")),
    _baggage("an encoded space stays a space", "value", ["serverNode=DF%2028"], _carries("serverNode=DF%2028")),
    _baggage("a plus sign stays a plus sign", "value", ["a=1+1"], _carries("a=1+1")),
    _baggage("an encoded percent sign", "value", ["a=100%25,b=%252C"], _carries("a=100%25", "b=%252C")),
    _baggage("encoded delimiters", "value", ["a=%2C%3B%3D%22%5C%09"], _carries("a=%2C%3B%3D%22%5C%09")),
    _baggage("UTF-8", "value", ["userId=Am%C3%A9lie,b=%F0%9F%90%99"], _carries("userId=Am%C3%A9lie", "b=%F0%9F%90%99")),
    _baggage("octets that are no UTF-8", "value", ["a=x%FFy"], _carries("a=x%FFy")),
    _baggage("properties", "property", ["a=1;flag,b=2;p=q;flag"], _carries("a=1;flag", "b=2;p=q;flag")),
    _baggage("an encoded value of a property", "property", ["a=1;p=x%20y%3B"], _carries("a=1;p=x%20y%3B")),
    _baggage("64 members", "limits", [",".join(_64)], _carries(*_64)),
    _baggage("8192 bytes", "limits", [_8192], _carries(_8192)),
    _baggage("too much is cut between members", "limits", [",".join(_TOO_MUCH)], _only_whole("baggage", *_TOO_MUCH)),
    _baggage(
        "with a bad traceparent it is passed on", "mutating-baggage", ["a=1"], _carries("a=1"), parent=_parent("ff")
    ),
    Check(
        "baggage: what breaks the grammar does not end the trace",
        _TRACE_CONTEXT + _RECEIVED,
        (_parent(), ("baggage", 'a="1", ,=;')),
        (_VALID, _CONTINUED),
    ),
)
