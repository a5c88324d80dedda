"""Inputs and what each must give, shared by tests and benches: W3C Trace Context Level 2, W3C Baggage, and both forms.

Trace Context: https://www.w3.org/TR/trace-context-2/   Baggage: https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

from typing import NamedTuple

from .forms import FORMS

TWINS = FORMS

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
IDS = f"{TRACE_ID}-{SPAN_ID}"
TRACEPARENT = f"00-{IDS}-01"
UNSAMPLED = f"00-{IDS}-00"

# Text, trace id, span id, flags. Sections 3.2.2 (the fields) and 4.3 (versions) of Trace Context.
GOOD_TRACEPARENTS = {
    "sampled": (TRACEPARENT, TRACE_ID, SPAN_ID, 0x01),
    "not sampled": (UNSAMPLED, TRACE_ID, SPAN_ID, 0x00),
    "random": (f"00-{IDS}-02", TRACE_ID, SPAN_ID, 0x02),
    "sampled and random": (f"00-{IDS}-03", TRACE_ID, SPAN_ID, 0x03),
    "flags of the future": (f"00-{IDS}-ff", TRACE_ID, SPAN_ID, 0xFF),
    "a flag of the future alone": (f"00-{IDS}-80", TRACE_ID, SPAN_ID, 0x80),
    "the smallest ids": (f"00-{1:032x}-{1:016x}-01", f"{1:032x}", f"{1:016x}", 0x01),
    "the largest ids": (f"00-{'f' * 32}-{'f' * 16}-01", "f" * 32, "f" * 16, 0x01),
    "a 64-bit trace id": (f"00-{'0' * 16}{SPAN_ID}-{SPAN_ID}-01", "0" * 16 + SPAN_ID, SPAN_ID, 0x01),
    "low half of the trace id zero": (f"00-{SPAN_ID}{'0' * 16}-{SPAN_ID}-01", SPAN_ID + "0" * 16, SPAN_ID, 0x01),
    "future version, as long as 00": (f"cc-{IDS}-01", TRACE_ID, SPAN_ID, 0x01),
    "future version with more fields": (f"cc-{IDS}-01-what-comes-next", TRACE_ID, SPAN_ID, 0x01),
    "future version with an empty field": (f"cc-{IDS}-01-", TRACE_ID, SPAN_ID, 0x01),
    "future version with any ASCII in its field": (f"01-{IDS}-00-XYZ \t,;=\x7f~", TRACE_ID, SPAN_ID, 0x00),
    "the last version": (f"fe-{IDS}-01", TRACE_ID, SPAN_ID, 0x01),
    "512 characters": (f"cc-{IDS}-01-{'x' * 456}", TRACE_ID, SPAN_ID, 0x01),
    "space before": (f" {TRACEPARENT}", TRACE_ID, SPAN_ID, 0x01),
    "tab before": (f"\t{TRACEPARENT}", TRACE_ID, SPAN_ID, 0x01),
    "space after": (f"{TRACEPARENT} ", TRACE_ID, SPAN_ID, 0x01),
    "tab after": (f"{TRACEPARENT}\t", TRACE_ID, SPAN_ID, 0x01),
    "white space around": (f"\t {TRACEPARENT} \t", TRACE_ID, SPAN_ID, 0x01),
}

# Text, and a part of the reason that FormatError gives.
BAD_TRACEPARENTS = {
    "white space alone": (" \t", "2 characters, must be 55"),
    "white space only": (" \t ", "3 characters, must be 55"),
    "version ff": (f"ff-{IDS}-01", "version ff is forbidden"),
    "version 00 with a dot after": (f"{TRACEPARENT}.", "56 characters, must be 55"),
    "version 00 with a dash after": (f"{TRACEPARENT}-", "56 characters, must be 55"),
    "version 00 with a field after": (f"{TRACEPARENT}-x", "57 characters, must be 55"),
    "version 00 twice": (f"{TRACEPARENT},{TRACEPARENT}", "111 characters, must be 55"),
    "future version with a dot after": (f"cc-{IDS}-01.x", "must be version-traceid-spanid-flags"),
    "future version with é in its field": (f"cc-{IDS}-01-\xe9", "must be version-traceid-spanid-flags"),
    "future version cut short": (f"cc-{IDS}-0", "54 characters, must be 55"),
    "future version with long flags": (f"cc-{IDS}-011", "must be version-traceid-spanid-flags"),
    "513 characters": (f"cc-{IDS}-01-{'x' * 457}", "513 characters, must be 55"),
    "very long": (f"cc-{IDS}-01-{'x' * 100_000}", "100056 characters, must be 55"),
    "version with a dot first": (f".0-{IDS}-01", "must be version-traceid-spanid-flags"),
    "version with a dot last": (f"0.-{IDS}-01", "must be version-traceid-spanid-flags"),
    "version of three digits": (f"000-{IDS}-01", "56 characters, must be 55"),
    "version of four digits": (f"0000-{IDS}-01", "57 characters, must be 55"),
    "version of one digit": (f"0-{IDS}-01", "54 characters, must be 55"),
    "version in upper case": (f"CC-{IDS}-01", "hex digits must be lowercase"),
    "version in upper case that is ff": (f"FF-{IDS}-01", "hex digits must be lowercase"),
    "trace id all zeros": (f"00-{'0' * 32}-{SPAN_ID}-01", "ids must not be all zeros"),
    "trace id in upper case": (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", "hex digits must be lowercase"),
    "trace id with a dot first": (f"00-.{TRACE_ID[1:]}-{SPAN_ID}-01", "must be version-traceid-spanid-flags"),
    "trace id with a dot last": (f"00-{TRACE_ID[:-1]}.-{SPAN_ID}-01", "must be version-traceid-spanid-flags"),
    "trace id with an underscore": (f"00-{TRACE_ID[:15]}_{TRACE_ID[16:]}-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id with a sign": (f"00-+{TRACE_ID[1:]}-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id with a space": (f"00- {TRACE_ID[1:]}-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id with full-width digits": ("00-" + "\uff11" * 32 + f"-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id with NUL": (f"00-{TRACE_ID[:-1]}\0-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id with a lone surrogate": (f"00-{TRACE_ID[:-1]}\udc80-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id too long": (f"00-{TRACE_ID}0-{SPAN_ID}-01", "56 characters, must be 55"),
    "trace id too long in a future version": (f"cc-{TRACE_ID}0-{SPAN_ID}-01", "lowercase hex digits"),
    "trace id too short": (f"00-{TRACE_ID[1:]}-{SPAN_ID}-01", "54 characters, must be 55"),
    "span id all zeros": (f"00-{TRACE_ID}-{'0' * 16}-01", "ids must not be all zeros"),
    "span id in upper case": (f"00-{TRACE_ID}-{SPAN_ID.upper()}-01", "hex digits must be lowercase"),
    "span id with a dot first": (f"00-{TRACE_ID}-.{SPAN_ID[1:]}-01", "lowercase hex digits"),
    "span id with a dot last": (f"00-{TRACE_ID}-{SPAN_ID[:-1]}.-01", "lowercase hex digits"),
    "span id too long": (f"00-{TRACE_ID}-{SPAN_ID}0-01", "56 characters, must be 55"),
    "span id too short": (f"00-{TRACE_ID}-{SPAN_ID[1:]}-01", "54 characters, must be 55"),
    "flags in upper case": (f"00-{IDS}-0A", "hex digits must be lowercase"),
    "flags with a dot first": (f"00-{IDS}-.0", "lowercase hex digits"),
    "flags with a dot last": (f"00-{IDS}-0.", "lowercase hex digits"),
    "flags too long": (f"00-{IDS}-001", "56 characters, must be 55"),
    "flags too short": (f"00-{IDS}-1", "54 characters, must be 55"),
    "other separators": (TRACEPARENT.replace("-", "_"), "lowercase hex digits"),
    "fields that moved": (f"00-{SPAN_ID}-{TRACE_ID}-01", "lowercase hex digits"),
    "line break after": (f"{TRACEPARENT}\n", "56 characters, must be 55"),
    "no-break space before": (f"\xa0{TRACEPARENT}", "must be version-traceid-spanid-flags"),
    "NUL after": (f"{TRACEPARENT}\0", "56 characters, must be 55"),
    "quoted": (f'"{TRACEPARENT}"', "must be version-traceid-spanid-flags"),
}

_FULL = [(f"k{at:02d}", str(at)) for at in range(32)]
FULL_STATE = ",".join(f"{key}={value}" for key, value in _FULL)
STATE_KEY_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789_-*/@"
STATE_VALUE_CHARS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")

# Section 3.3.1.3 of Trace Context Level 2: text, and the members that a reader sees.
GOOD_STATES = {
    "one": ("foo=1", [("foo", "1")]),
    "two": ("foo=1,bar=2", [("foo", "1"), ("bar", "2")]),
    "key of one digit": ("1=a", [("1", "a")]),
    "key that starts with a digit": ("1a=1", [("1a", "1")]),
    "key of a tenant and a system": ("fw529a3039@dt=FfAAmQ", [("fw529a3039@dt", "FfAAmQ")]),
    "key that ends with @": ("foo@=1,bar=2", [("foo@", "1"), ("bar", "2")]),
    "key with @@": ("foo@@bar=1,bar=2", [("foo@@bar", "1"), ("bar", "2")]),
    "key with two @": ("foo@bar@baz=1", [("foo@bar@baz", "1")]),
    "tenant of 242 characters": (f"{'t' * 242}@v=1", [("t" * 242 + "@v", "1")]),
    "system of 15 characters": (f"t@{'v' * 15}=1", [("t@" + "v" * 15, "1")]),
    "key of every character": (f"{STATE_KEY_CHARS}=1", [(STATE_KEY_CHARS, "1")]),
    "key of 256 characters": (f"{'z' * 256}=1", [("z" * 256, "1")]),
    "value of every character": (f"a={STATE_VALUE_CHARS}", [("a", STATE_VALUE_CHARS)]),
    "value of 256 characters": (f"a={'v' * 256}", [("a", "v" * 256)]),
    "value with spaces first and inside": ("a=  x y", [("a", "  x y")]),
    "white space around commas": ("foo=1 \t , \t bar=2,\t baz=3", [("foo", "1"), ("bar", "2"), ("baz", "3")]),
    "white space that no value ends with": ("foo=1 ,bar=2", [("foo", "1"), ("bar", "2")]),
    "empty members": (",foo=1,, \t ,bar=2,", [("foo", "1"), ("bar", "2")]),
    "duplicates: the first is the newest": ("foo=1,bar=2,foo=3", [("foo", "1"), ("bar", "2")]),
    "32 members": (FULL_STATE, _FULL),
    "32 members among empty ones": (FULL_STATE.replace(",", ",,") + ",", _FULL),
    "32 members of 513 characters": (
        ",".join(f"{'k' * 254}{at:02d}={'v' * 256}" for at in range(32)),
        [("k" * 254 + f"{at:02d}", "v" * 256) for at in range(32)],
    ),
}

# Text, and a part of the reason that FormatError gives.
BAD_STATES = {
    "no equals sign": ("foo", "no '='"),
    "one good, one without an equals sign": ("foo=1,bar", "no '='"),
    "no key": ("=1", "a key must be"),
    "no value": ("foo=", "a value must be"),
    "no value, then a good member": ("foo=,bar=3", "a value must be"),
    "a value of spaces": ("foo=   ,bar=3", "a value must be"),
    "two equals signs": ("foo=bar=baz", "a value must be"),
    "space between key and equals sign": ("foo =1", "a key must be"),
    "space inside a key": ("fo o=1", "a key must be"),
    "key in upper case": ("FOO=1", "a key must be"),
    "key with a dot": ("foo.bar=1", "a key must be"),
    "key that starts with @": ("@foo=1,bar=2", "a key must be"),
    "key that starts with _": ("_foo=1", "a key must be"),
    "key with é": ("fo\xe9=1", "a key must be"),
    "key with a full-width digit": ("\uff11=1", "a key must be"),
    "key of 257 characters": (f"{'z' * 257}=1", "a key must be"),
    "value of 257 characters": (f"a={'v' * 257}", "a value must be"),
    "value with é": ("a=\xe9", "a value must be"),
    "value with a tab inside": ("a=x\ty", "a value must be"),
    "value with a line break": ("a=x\r\nb: c", "a value must be"),
    "value with NUL": ("a=\0", "a value must be"),
    "value with DEL": ("a=\x7f", "a value must be"),
    "value with a lone surrogate": ("a=\ud800", "a value must be"),
    "line break between members": ("a=1,\nb=2", "a key must be"),
    "33 members": (f"{FULL_STATE},k32=32", "more than 32 members"),
    "33 members, two of them equal": (f"{FULL_STATE},k00=0", "more than 32 members"),
    "longer than any good one": ("," * 16448, "longer than 16447 characters"),
}

_SPECIAL = "\t \"';=asdf!@#$%^&*()"
_SPECIAL_ESCAPED = "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"
BAGGAGE_64 = ",".join(f"key{at}=value" for at in range(64))
BAGGAGE_8192 = f"a={'0123456789' * 819}"
BAGGAGE_512 = ",".join(f"{at:03d}=0123456789a" for at in range(512)) + "b"

# Section 3.3.1 of Baggage: text; members as (key, value, properties); how many are left out.
BAGGAGE = {
    "empty": ("", [], 0),
    "white space and commas": (" \t,, ,", [], 0),
    "one": ("SomeKey=SomeValue", [("SomeKey", "SomeValue", ())], 0),
    "with a property": ("SomeKey=SomeValue;SomeProp", [("SomeKey", "SomeValue", (("SomeProp", None),))], 0),
    "with properties of both kinds": (
        "SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal",
        [("SomeKey", "SomeValue", (("SomeProp", None),)), ("SomeKey2", "SomeValue2", (("ValueProp", "PropVal"),))],
        0,
    ),
    "white space wherever it may be": (
        "SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t ValueProp \t = \t PropVal",
        [("SomeKey", "SomeValue", (("SomeProp", None),)), ("SomeKey2", "SomeValue2", (("ValueProp", "PropVal"),))],
        0,
    ),
    "white space around properties without values": (
        "k=v \t ;\tp ; q\t , j=w;\tr\t=\tx ;s ",
        [("k", "v", (("p", None), ("q", None))), ("j", "w", (("r", "x"), ("s", None)))],
        0,
    ),
    "white space at the end": ("SomeKey \t = \t SomeValue \t ", [("SomeKey", "SomeValue", ())], 0),
    "equals signs in a value": ("SomeKey=SomeValue=equals", [("SomeKey", "SomeValue=equals", ())], 0),
    "equals signs in a property": ("k=v;p=a=b==", [("k", "v", (("p", "a=b=="),))], 0),
    "several properties": (
        "k=v;SomeProp;SecondProp=PropValue",
        [("k", "v", (("SomeProp", None), ("SecondProp", "PropValue")))],
        0,
    ),
    "properties of one name": (
        "k=v;p;p=PropValue;p=Another",
        [("k", "v", (("p", None), ("p", "PropValue"), ("p", "Another")))],
        0,
    ),
    "an empty value": ("k=", [("k", "", ())], 0),
    "an empty value of a property": ("k=v;p=", [("k", "v", (("p", ""),))], 0),
    "percent-encoded value": (f"k={_SPECIAL_ESCAPED}", [("k", _SPECIAL, ())], 0),
    "percent-encoded value between white space": (f"k \t = \t {_SPECIAL_ESCAPED} \t ", [("k", _SPECIAL, ())], 0),
    "percent-encoded property": (f"k=v;p={_SPECIAL_ESCAPED}", [("k", "v", (("p", _SPECIAL),))], 0),
    "a property's name is not decoded": (
        "k=v;ValueProp%20%09%20%3D%20%09%20PropVal",
        [("k", "v", (("ValueProp%20%09%20%3D%20%09%20PropVal", None),))],
        0,
    ),
    "a key is not decoded": ("a%20b=v", [("a%20b", "v", ())], 0),
    "UTF-8": (
        "userId=Am%C3%A9lie,serverNode=DF%2028,isProduction=false",
        [("userId", "Am\xe9lie", ()), ("serverNode", "DF 28", ()), ("isProduction", "false", ())],
        0,
    ),
    "UTF-8 beyond the basic plane, lower-case hex": ("k=%f0%9f%90%99", [("k", "\U0001f419", ())], 0),
    "plus is plus": ("k=a+b%2Bc", [("k", "a+b+c", ())], 0),
    "encoded line break and NUL": ("k=%0D%0A%00", [("k", "\r\n\0", ())], 0),
    "encoded twice": ("k=%252C", [("k", "%2C", ())], 0),
    "octets that are no UTF-8": ("k=a%FFb", [("k", "a\ufffdb", ())], 0),
    "UTF-8 cut short": ("k=%C3", [("k", "\ufffd", ())], 0),
    "UTF-8 of a surrogate": ("k=%ED%A0%80", [("k", "\ufffd" * 3, ())], 0),
    "a lone percent sign": ("k=100%", [("k", "100%", ())], 0),
    "percent signs before what is no hex": ("k=%zz%2,j=%%41", [("k", "%zz%2", ()), ("j", "%A", ())], 0),
    "percent sign before a sign": ("k=%+1%-1", [("k", "%+1%-1", ())], 0),
    "keys differ by case": ("a=1,A=2", [("a", "1", ()), ("A", "2", ())], 0),
    "duplicates keep their order": (
        "k=1;p,j=2,k=3",
        [("k", "1", (("p", None),)), ("j", "2", ()), ("k", "3", ())],
        0,
    ),
    "key of every character": ("!#$%&'*+-.^_`|~09azAZ=v", [("!#$%&'*+-.^_`|~09azAZ", "v", ())], 0),
    "a member without an equals sign is left out alone": ("a=1,b,c=3", [("a", "1", ()), ("c", "3", ())], 1),
    "a member without a key is left out alone": ("=1,c=3", [("c", "3", ())], 1),
    "a key with a space": ("a b=1,c=3", [("c", "3", ())], 1),
    "a key in quotes": ('"a"=1,c=3', [("c", "3", ())], 1),
    "a key with é": ("\xe9=1,c=3", [("c", "3", ())], 1),
    "a value with a space": ("a=1 2,c=3", [("c", "3", ())], 1),
    "a value in quotes": ('a="1",c=3', [("c", "3", ())], 1),
    "a comma is never quoted": ('a="1,2",c=3', [("c", "3", ())], 2),
    "a value with a backslash": ("a=\\,c=3", [("c", "3", ())], 1),
    "a value with é": ("a=\xe9,c=3", [("c", "3", ())], 1),
    "a value with a line break": ("a=1\r\nx: y,c=3", [("c", "3", ())], 1),
    "a value with NUL": ("a=\0,c=3", [("c", "3", ())], 1),
    "a value with a lone surrogate": ("a=\udcff,c=3", [("c", "3", ())], 1),
    "a property without a name": ("a=1;=2,b=1;,c=3", [("c", "3", ())], 2),
    "a property with a space in its name": ("a=1;p q,c=3", [("c", "3", ())], 1),
    "a property with a bad value": ('a=1;p="q",c=3', [("c", "3", ())], 1),
    "64 members": (BAGGAGE_64, [(f"key{at}", "value", ()) for at in range(64)], 0),
    "65 members": (BAGGAGE_64 + ",last=1", [(f"key{at}", "value", ()) for at in range(64)], 1),
    "one member of 8192 bytes": (BAGGAGE_8192, [("a", "0123456789" * 819, ())], 0),
    "one member of 8193 bytes": (BAGGAGE_8192 + "0", [], 1),
    "8192 bytes, then a comma": (BAGGAGE_8192 + ",", [("a", "0123456789" * 819, ())], 0),
    "8192 bytes, then a member": (BAGGAGE_8192 + ",b=1", [("a", "0123456789" * 819, ())], 1),
    "a member across the limit": (f"a=1,b={'x' * 8190},c=2", [("a", "1", ())], 2),
    "512 members in 8192 bytes": (BAGGAGE_512, [(f"{at:03d}", "0123456789a", ()) for at in range(64)], 448),
}


class Request(NamedTuple):
    """What one request of the conformance harness sends, and what must come of it."""

    headers: list[tuple[str, str]]
    is_continued: bool  # in the trace that was sent, else in a new one
    state: list[tuple[str, str]] | None = None  # members that go out; None: not looked at
    calls: int = 1
    is_random: bool = False


_ID = "12345678901234567890123456789012"
_PARENT = "1234567890123456"
_SENT = f"00-{_ID}-{_PARENT}-01"


def _new(*parents: str) -> Request:
    return Request([("traceparent", parent) for parent in parents], False)


def _continued(*parents: str) -> list[Request]:
    return [Request([("traceparent", parent)], True) for parent in parents]


def _state(*texts: str, gives: list[tuple[str, str]], name: str = "tracestate") -> Request:
    return Request([("traceparent", f"00-{_ID}-{_PARENT}-00"), *[(name, text) for text in texts]], True, gives)


_THREE = [("foo", "1"), ("bar", "2"), ("baz", "3")]
_BARS = [(f"bar{at:02d}", f"{at:02d}") for at in range(1, 34)]


def _bars(first: int, last: int) -> str:
    return ",".join(f"{key}={value}" for key, value in _BARS[first - 1 : last])


# The facts of the public W3C harness, test by test under its names: SPEC_LEVEL=2, STRICT_LEVEL=2, at its commit acab820.
# https://github.com/w3c/trace-context/tree/main/test
HARNESS: dict[str, list[Request]] = {
    "both_traceparent_and_tracestate_missing": [_new()],
    "traceparent_included_tracestate_missing": _continued(_SENT),
    "traceparent_duplicated": [_new(f"00-{_ID[:-1]}1-{_PARENT}-01", _SENT)],
    "traceparent_header_name": [Request([("trace-parent", _SENT)], False), Request([("trace.parent", _SENT)], False)],
    "traceparent_header_name_valid_casing": [
        Request([(name, _SENT)], True) for name in ("TraceParent", "TrAcEpArEnT", "TRACEPARENT")
    ],
    "traceparent_version_0x00": [_new(f"{_SENT}."), _new(f"{_SENT}-what-the-future-will-be-like")],
    "traceparent_version_0xcc": [
        *_continued(f"cc{_SENT[2:]}", f"cc{_SENT[2:]}-what-the-future-will-be-like"),
        _new(f"cc{_SENT[2:]}.what-the-future-will-be-like"),
    ],
    "traceparent_version_0xff": [_new(f"ff{_SENT[2:]}")],
    "traceparent_version_illegal_characters": [_new(f".0{_SENT[2:]}"), _new(f"0.{_SENT[2:]}")],
    "traceparent_version_too_long": [_new(f"0{_SENT}"), _new(f"00{_SENT}")],
    "traceparent_version_too_short": [_new(_SENT[1:])],
    "traceparent_trace_id_all_zero": [_new(f"00-{'0' * 32}-{_PARENT}-01")],
    "traceparent_trace_id_illegal_characters": [
        _new(f"00-.{_ID[1:]}-{_PARENT}-01"),
        _new(f"00-{_ID[:-1]}.-{_PARENT}-01"),
    ],
    "traceparent_trace_id_too_long": [_new(f"00-{_ID}3-{_PARENT}-01")],
    "traceparent_trace_id_too_short": [_new(f"00-{_ID[:-1]}-{_PARENT}-01")],
    "traceparent_parent_id_all_zero": [_new(f"00-{_ID}-{'0' * 16}-01")],
    "traceparent_parent_id_illegal_characters": [
        _new(f"00-{_ID}-.{_PARENT[1:]}-01"),
        _new(f"00-{_ID}-{_PARENT[:-1]}.-01"),
    ],
    "traceparent_parent_id_too_long": [_new(f"00-{_ID}-{_PARENT}7-01")],
    "traceparent_parent_id_too_short": [_new(f"00-{_ID}-{_PARENT[:-1]}-01")],
    "traceparent_trace_flags_illegal_characters": [_new(f"{_SENT[:-2]}.0"), _new(f"{_SENT[:-2]}0.")],
    "traceparent_trace_flags_too_long": [_new(f"{_SENT[:-2]}001")],
    "traceparent_trace_flags_too_short": [_new(f"{_SENT[:-2]}1")],
    "traceparent_ows_handling": _continued(f" {_SENT}", f"\t{_SENT}", f"{_SENT} ", f"{_SENT}\t", f"\t {_SENT} \t"),
    "tracestate_included_traceparent_missing": [
        Request([("tracestate", text)], False, []) for text in ("foo=1", "foo=1,bar=2")
    ],
    "tracestate_included_traceparent_included": [_state("foo=1,bar=2", gives=_THREE[:2])],
    "tracestate_header_name": [_state("foo=1", gives=[], name=name) for name in ("trace-state", "trace.state")],
    "tracestate_header_name_valid_casing": [
        _state("foo=1", gives=_THREE[:1], name=name) for name in ("TraceState", "TrAcEsTaTe", "TRACESTATE")
    ],
    "tracestate_empty_header": [
        _state("", gives=[]),
        _state("foo=1", "", gives=_THREE[:1]),
        _state("", "foo=1", gives=_THREE[:1]),
    ],
    "tracestate_multiple_headers_different_keys": [
        _state(
            "foo=1,bar=2",
            "rojo=1,congo=2",
            "baz=3",
            gives=[("foo", "1"), ("bar", "2"), ("rojo", "1"), ("congo", "2"), ("baz", "3")],
        )
    ],
    "tracestate_duplicated_keys": [
        _state(*texts, gives=_THREE[:1])
        for texts in (["foo=1,foo=1"], ["foo=1,foo=2"], ["foo=1", "foo=1"], ["foo=1", "foo=2"])
    ],
    "tracestate_all_allowed_characters": [
        _state(f"{key}={STATE_VALUE_CHARS}", gives=[(key, STATE_VALUE_CHARS)])
        for key in (STATE_KEY_CHARS[:-1], f"{STATE_KEY_CHARS}a-z0-9_-*/")
    ],
    "tracestate_ows_handling": [
        _state("foo=1 \t , \t bar=2, \t baz=3", gives=_THREE),
        _state("foo=1\t \t,\t \tbar=2,\t \tbaz=3", gives=_THREE),
        *[_state(text, gives=_THREE[:1]) for text in (" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t")],
    ],
    "tracestate_key_illegal_characters": [_state(text, gives=[]) for text in ("foo =1", "FOO=1", "foo.bar=1")],
    "tracestate_key_illegal_vendor_format": [
        _state("@foo=1,bar=2", gives=[]),
        *[_state(f"{key}=1,bar=2", gives=[(key, "1"), ("bar", "2")]) for key in ("foo@", "foo@@bar", "foo@bar@baz")],
    ],
    "tracestate_member_count_limit": [
        _state(_bars(1, 10), _bars(11, 20), _bars(21, 30), _bars(31, 32), gives=_BARS[:32]),
        _state(_bars(1, 10), _bars(11, 20), _bars(21, 30), _bars(31, 33), gives=[]),
    ],
    "tracestate_key_length_limit": [
        _state("foo=1", f"{'z' * 257}=1", gives=[]),
        *[
            _state("foo=1", f"{key}=1", gives=[("foo", "1"), (key, "1")])
            for key in ("z" * 256, "t" * 241 + "@" + "v" * 14, "t" * 242 + "@v", "t@" + "v" * 15)
        ],
    ],
    "tracestate_value_illegal_characters": [_state(text, gives=[]) for text in ("foo=bar=baz", "foo=,bar=3")],
    "multiple_requests_with_valid_traceparent": [Request([("traceparent", _SENT)], True, calls=3)],
    "multiple_requests_without_traceparent": [Request([], False, calls=3)],
    "multiple_requests_with_illegal_traceparent": [
        Request([("traceparent", f"00-{'0' * 32}-{_PARENT}-01")], False, calls=3)
    ],
    "propagates_random_flag": [Request([("traceparent", f"00-{_ID}-{_PARENT}-02")], True, is_random=True)],
}
