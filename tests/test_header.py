import base64
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit import _propagation, wire
from tracekit._propagation import _NAMES
from tracekit._render import cells
from tracekit.cli.header.command import clipped
from tracekit.cli.header.command import lines as segments_of
from tracekit.cli.header.dumps import MAX_BYTES, DumpError, Message, read_arguments, read_dump
from tracekit.cli.header.report import _FORMATS, _OWNERS, _PREFIXES, examine
from tracekit.cli.header.words import TITLES
from tracekit.cli.main import main

from .tools.terminal import in_terminal, without_reader
from .wire.vector_files import DIRECTORY, described, expected, load

REPOSITORY = Path(__file__).parent.parent
PYTHONPATH = str(Path(tracekit.__file__).parents[1])
COMMAND = [sys.executable, "-m", "tracekit", "header"]
HOSTILE = "[bold]\x1b[31m\x1b]0;title\x07\r\n\x9b2J\u202e\ud800\x7f"

TRACE, SPAN = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1"
PARENT = f"00-{TRACE}-{SPAN}-01"
BAD_PARENT = PARENT.replace("f198", "F198")


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def report(*headers, to=()):
    """The report on *headers*, ``name: value`` each."""
    (one,) = examine(read_arguments(headers), to)
    return one


def found(*headers):
    """What was found of the one format that *headers* are of."""
    (one,) = report(*headers).found
    return one


def text(*headers, to=(), width=120):
    drawn = segments_of([report(*headers, to=to)], width)
    return ["".join(part for part, _ in line) for line in drawn]


def run(*arguments, input=b"", **env):
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, **env}
    return subprocess.run([*COMMAND, *arguments], input=input, capture_output=True, env=environment, timeout=60)


# What headers are found in


def headers_in(dump):
    return [(message.title, message.fields) for message in read_dump(dump)]


CURL = f"""\
*   Trying 127.0.0.1:8000...
  % Total    % Received
> GET /a?secret=1 HTTP/1.1
> Host: shop.example
> TraceParent: {PARENT}
>
{{ [5 bytes data]
< HTTP/1.1 200 OK
< Server-Timing: trace;desc={PARENT}
<
traceparent: in the body
* Connection #0 to host left intact
""".replace("\n", "\r\n")


def test_a_curl_dump_has_the_lines_that_curl_marks_and_no_body():
    assert headers_in(CURL.encode()) == [
        ("request GET /a", [("Host", "shop.example"), ("TraceParent", PARENT)]),
        ("response 200", [("Server-Timing", f"trace;desc={PARENT}")]),
    ]


def test_a_raw_message_ends_at_the_empty_line():
    raw = b"POST /x HTTP/1.1\r\nb3: 0\r\n\r\ntraceparent: body\r\nHTTP/1.1 404 No\r\nB3:d\r\n\r\n"
    assert headers_in(raw) == [("request POST /x", [("b3", "0")]), ("response 404", [("B3", "d")])]


def test_lines_without_a_start_are_headers_and_noise_is_passed_over():
    assert headers_in(b"\n  b3:  0 \n\nno header\n= 7\ntrace-id: x\n") == [
        ("headers", [("b3", "0"), ("trace-id", "x")])
    ]


def har(request, response):
    entry = {"request": {"method": "GET", "url": "http://shop.example/a?token=1#x", "headers": request}}
    return {"log": {"entries": [entry | {"response": {"status": 200, "headers": response}}]}}


def pairs(**headers):
    return [{"name": name, "value": value} for name, value in headers.items()]


@pytest.mark.parametrize(
    ("document", "messages"),
    [
        (
            har(pairs(b3="0"), pairs(b3="d")),
            [("request GET http://shop.example/a", [("b3", "0")]), ("response 200", [("b3", "d")])],
        ),
        ({"b3": "0", "X": ["1", "2"], "n": 1}, [("headers", [("b3", "0"), ("X", "1"), ("X", "2")])]),
        ([["b3", "0"], ["b3", "1"], 7, ["x"], None], [("headers", [("b3", "0"), ("b3", "1")])]),
        ({"headers": {"b3": "0"}, "more": [{"headers": {"b3": "1"}}]}, [("headers", [("b3", b)]) for b in "01"]),
        ({"B3": "0", "HOME": "/"}, [("environment", [("B3", "0"), ("HOME", "/")])]),
        (har([{"name": 1}, None, {"value": "x"}], None), []),
    ],
)
def test_json_with_headers_anywhere_in_it(document, messages):
    assert headers_in(json.dumps(document).encode()) == messages


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
def test_an_environment_is_what_env_prints_or_what_the_kernel_has(separator):
    dump = separator.join(["HOME=/", "B3=0", "A=b: c", ""]).encode()
    (message,) = read_dump(dump)
    assert message == Message("environment", [("HOME", "/"), ("B3", "0"), ("A", "b: c")], is_environ=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_dump_is_text_of_whoever_made_it(encoding):
    assert headers_in("x: é\nb3: 0\n".encode(encoding)) == [("headers", [("x", "é"), ("b3", "0")])]


@pytest.mark.parametrize(
    ("dump", "message"),
    [
        (b"", "nothing came: expected 'name: value' lines, a curl -v dump"),
        (b" \r\n\t", "nothing came: "),
        (b"no header here", "no headers: expected "),
        (b'{\n "b3": 0 1}', "no JSON at line 2 column 10: no headers: expected "),
        (b"[" * 200_000, "no JSON: no headers: expected "),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no JSON: no headers: expected "),
        (b"b3: 0\n" + b" " * MAX_BYTES, "more than 16 MiB: expected "),
    ],
)
def test_what_is_no_dump_says_what_was_expected(dump, message):
    with pytest.raises(DumpError) as caught:
        read_dump(dump)
    assert str(caught.value).startswith(message)


# What is found


NAMES = {"grpc_bin": "grpc", "seed_header": "seed", "server_timing": "server-timing"}
CASES = [
    pytest.param(case, id=f"{path.stem}: {case.format}: {case.name}")
    for path in sorted(DIRECTORY.glob("*.json"))
    if path.stem != "environ"
    for case in load(path.stem)
]


@pytest.mark.parametrize("case", CASES)
def test_every_vector_is_found_and_judged_as_its_format_does(case):
    name = NAMES.get(case.format, case.format)
    fields = [
        (field.title(), base64.b64encode(one).decode() if isinstance(one, bytes) else one)
        for field, value in case.carrier.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    try:
        (one,) = examine([Message("", fields)], ["all"])
    except DumpError:
        assert case.error is None
        assert case.context is None
        return
    mine = [part for part in one.found if part.format == name]
    assert len(mine) == 1 or (case.context is None and case.error is None)
    for part in mine:
        assert described(part.context) == expected(case)
        is_bad = case.error is not None or bool((case.context or {}).get("dropped"))
        assert part.problems or not is_bad
        assert all(problem.then for problem in part.problems)
        if case.canonical:
            (same,) = [conversion for conversion in one.conversions if conversion.format == name]
            assert not part.problems or one.context is not None
            if one.context == part.context:
                assert same.lost == []
    json.dumps(one.as_json())
    for width in (40, 120):
        for line in segments_of([one], width):
            assert all(piece.isprintable() for piece, _ in line)


EXAMPLES = {
    "tracecontext": [f"traceparent: {PARENT}", "tracestate: dd=s:2,ot=th:c"],
    "baggage": ["baggage: user=Am%C3%A9lie;ttl=5;x,plan=free"],
    "b3": [f"b3: {TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"],
    "b3multi": [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}"],
    "jaeger": [f"uber-trace-id: {TRACE}:{SPAN}:0:b", "uberctx-user: Am%C3%A9lie"],
    "xray": [f"X-Amzn-Trace-Id: Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=?;Lineage=a:1"],
    "ottrace": [f"ot-tracer-traceid: {TRACE}", f"ot-tracer-spanid: {SPAN}", "ot-tracer-sampled: false"],
    "datadog": [
        "x-datadog-trace-id: 7277407061855694839",
        "x-datadog-parent-id: 16453819474850114513",
        "x-datadog-sampling-priority: -1",
        "x-datadog-origin: rum",
        "x-datadog-tags: _dd.p.tid=80f198ee56343ba8,_dd.p.dm=-4",
    ],
    "cloudtrace": [f"X-Cloud-Trace-Context: {TRACE}/16453819474850114513;o=1"],
    "grpc": ["grpc-trace-bin: AACA8ZjuVjQ7qGT+iypX0+/3AeRXtaLk2GvRAgE"],
    "seed": [f"Trace-Id: {TRACE}/{SPAN};o=0"],
    "server-timing": [f"Server-Timing: db;dur=5, trace;desc={PARENT}"],
}
SAYS = {
    "tracecontext": {"version": "00", "decision": "sampled", "tracestate dd": "s:2", "tracestate ot": "th:c"},
    "baggage": {"label user": "Amélie", "label plan": "free"},
    "b3": {"decision": "sampled", "debug": "yes", "parent id": "05e3ac9a4f6e3b90"},
    "b3multi": {"decision": "left open"},
    "jaeger": {"decision": "sampled", "debug": "yes", "firehose": "yes", "label user": "Amélie"},
    "xray": {"decision": "left open", "Sampled": "?", "Lineage": "a:1"},
    "ottrace": {"decision": "not sampled"},
    "datadog": {
        "decision": "not sampled",
        "priority": "-1",
        "origin": "rum",
        "tag _dd.p.tid": "80f198ee56343ba8",
        "tag _dd.p.dm": "-4",
    },
    "cloudtrace": {"decision": "sampled"},
    "grpc": {"decision": "sampled"},
    "seed": {"decision": "not sampled"},
    "server-timing": {"decision": "sampled"},
}


@pytest.mark.parametrize("name", _FORMATS)
def test_each_format_is_named_and_its_fields_are_explained(name):
    one = found(*EXAMPLES[name])
    ids = {"trace id": TRACE, "span id": SPAN} if name != "baggage" else {}
    assert (one.format, one.problems, one.warnings) == (name, [], [])
    assert {word.what: word.value for word in one.words} == ids | SAYS[name]
    assert [f"{header.name}: {header.value}" for header in one.headers] == EXAMPLES[name]


def test_what_a_value_means_is_said_beside_it():
    said = "\n".join(text(*EXAMPLES["datadog"], *EXAMPLES["tracecontext"], *EXAMPLES["baggage"]))
    for meaning in (
        f"{SPAN}  16453819474850114513 in decimal, as the header has it",
        "-1  rejected by a user's rule",
        "80f198ee56343ba8  the high 64 bits of the trace id",
        "th:c  OpenTelemetry: 25 % of the traces are kept",
        "Amélie  with ttl=5; x",
    ):
        assert meaning in said


def test_headers_are_found_in_any_case_and_variables_by_their_own_names():
    assert found("TRACEparent: " + PARENT).headers[0].name == "TRACEparent"
    for variable, name in [
        (f"TRACEPARENT={PARENT}", "tracecontext"),
        (f"B3={TRACE}-{SPAN}", "b3"),
        ("X_B3_SAMPLED=0", "b3multi"),
        (f"UBER_TRACE_ID={TRACE}:{SPAN}:0:1", "jaeger"),
        ("UBERCTX_USER=a", "jaeger"),
        (f"X_AMZN_TRACE_ID=Root=1-{TRACE[:8]}-{TRACE[8:]}", "xray"),
        (f"_X_AMZN_TRACE_ID=Root=1-{TRACE[:8]}-{TRACE[8:]}", "xray"),
        (f"HTTP_TRACEPARENT={PARENT}", "tracecontext"),
    ]:
        one = found(variable)
        assert (one.format, one.problems, one.headers[0].name) == (name, [], variable.partition("=")[0])


def test_a_server_timing_without_a_trace_is_no_trace_header():
    with pytest.raises(DumpError, match="no trace header found"):
        report("Server-Timing: db;dur=5")


# What is wrong


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        (
            [f"traceparent: {BAD_PARENT}"],
            [
                f"  traceparent: {BAD_PARENT}",
                "                    ^",
                "  bad traceparent: hex digits must be lowercase at column 6: a receiver starts a new trace",
            ],
        ),
        (
            [f"traceparent: {PARENT}", f"traceparent: {PARENT}", "tracestate: a=1"],
            [
                f"  traceparent: {PARENT}",
                f"  traceparent: {PARENT}",
                "  tracestate: a=1",
                "  bad traceparent: 2 values, must be one: a receiver starts a new trace, and drops the tracestate",
            ],
        ),
        (
            [f"traceparent: {PARENT}", "tracestate: a=1, b=, c"],
            [
                f"  traceparent: {PARENT}",
                "  tracestate: a=1, b=, c",
                "                     ^",
                "  bad tracestate: a value must be 1 to 256 printable ASCII but ',' and '=': '' at column 8: "
                "a receiver drops the tracestate; the traceparent stands",
            ],
        ),
        (
            ["baggage: a=1,b, c=x y,d=2;é, =3"],
            [
                "  baggage: a=1,b, c=x y,d=2;é, =3",
                "               ^",
                "  bad baggage: a member has no '=': 'b' at column 5: this label is left out, the others are kept",
                "  baggage: a=1,b, c=x y,d=2;é, =3",
                "                     ^",
                "  bad baggage: a value must have ' ' percent-encoded at column 11: "
                "this label is left out, the others are kept",
                "  baggage: a=1,b, c=x y,d=2;é, =3",
                "                            ^",
                "  bad baggage: a key must be letters, digits or !#$%&'*+-.^_`|~: '\\xe9' at column 18: "
                "this label is left out, the others are kept",
                "  baggage: a=1,b, c=x y,d=2;é, =3",
                "                               ^",
                "  bad baggage: a key must be letters, digits or !#$%&'*+-.^_`|~: '' at column 21: "
                "this label is left out, the others are kept",
            ],
        ),
        (
            ["x-datadog-trace-id: 7", "x-datadog-parent-id: 7", "x-datadog-tags: _dd.p.dm=-4,_dd.p.tid=XY"],
            [
                "  x-datadog-trace-id: 7",
                "  x-datadog-parent-id: 7",
                "  x-datadog-tags: _dd.p.dm=-4,_dd.p.tid=XY",
                "                                        ^",
                "  bad x-datadog-tags: _dd.p.tid must be 16 lowercase hex digits, not all zeros at column 23: "
                "the trace id has 64 bits only",
            ],
        ),
        (
            [f"X-B3-TraceId: {TRACE}"],
            [
                f"  X-B3-TraceId: {TRACE}",
                "  bad x-b3-spanid: missing, and without it the others mean nothing: a receiver starts a new trace",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_with_a_caret_under_it_and_what_follows(headers, lines):
    shown = text(*headers)
    assert shown[0].startswith("✗ ")
    assert shown[1 : 1 + len(lines)] == lines


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        (["baggage: " + ",".join(f"k{at}=1" for at in range(70))], "baggage"),
        (["baggage: a=" + "x" * 9000], "baggage"),
        (["baggage: " + ",".join("x" * 100)], "baggage"),
        (["jaeger-baggage: a=1,b"], "jaeger-baggage"),
        ([f"uber-trace-id: {TRACE}:{SPAN}:0:1", "uberctx-a: é"], "uberctx-a"),
        (["ot-baggage-a: 1", "ot-baggage-b: é"], "ot-baggage-b"),
        (["uberctx-: 1"], "uberctx-"),
        (["grpc-tags-bin: AAAB"], "grpc-tags-bin"),
        (EXAMPLES["grpc"] + ["grpc-tags-bin: AAAB"], "grpc-tags-bin"),
        (["x-datadog-trace-id: 7", "x-datadog-origin: é"], "x-datadog-origin"),
        (["x-datadog-trace-id: 7", "x-datadog-tags: _dd.p.a=1,b"], "x-datadog-tags"),
        (["x-datadog-trace-id: 7", "x-datadog-tags: a=" + "1" * 600], "x-datadog-tags"),
    ],
)
def test_what_extract_would_leave_out_without_a_word_is_wrong_too(headers, field):
    problems = found(*headers).problems
    assert {problem.field for problem in problems} == {field}
    assert len(problems) <= 9


@pytest.mark.parametrize("width", [24, 40, 80])
@pytest.mark.parametrize("value", ["ab" * 5, "x" * 500, "é\x1b" * 200, "日本" * 100])
def test_a_long_value_is_clipped_around_the_column(value, width):
    for column in (1, 2, len(value) // 2, len(value), len(value) + 1):
        shown, before = clipped(value, column, width)
        assert cells(shown) <= width
        assert shown.isprintable()
        pointed = value[column - 1 : column]
        at, taken = 0, 0
        while taken < before:
            taken += cells(shown[at])
            at += 1
        assert taken == before
        expected = pointed if pointed.isprintable() else "\\x1b"
        assert shown[at:].startswith(expected)
        assert shown.startswith("…") or shown[:1] == value[:1]


def test_on_a_narrow_terminal_the_caret_stands_where_the_character_is():
    value = f"{PARENT[:-1]}G"
    lines = text(f"traceparent: {value}", width=40)
    assert lines[1] == "  traceparent: …ff7-e457b5a2e4d86bd1-0G"
    assert cells(lines[1]) <= 40
    assert lines[2].index("^") == len(lines[1]) - 1


# What is legal, and still worth a word


@pytest.mark.parametrize(
    ("headers", "warning"),
    [
        ([f"b3: {TRACE[:16]}-{SPAN}"], "the trace id has 64 bits, padded with zeros"),
        (
            [f"traceparent: 00-{'0' * 16}{TRACE[:16]}-{SPAN}-03"],
            "a padded trace id cannot be random: the random flag must not be set",
        ),
        ([f"b3: {'1' * 32}-{SPAN}"], "all digits of the trace id are the same: it looks made up"),
        ([f"b3: {TRACE}-{'a' * 16}"], "all digits of the span id are the same: it looks made up"),
        ([f"b3: 4bf92f3577b34da6a3ce929d0e0e4736-{SPAN}"], "the trace id is the specification's example"),
        (["tracestate: a=1"], "tracestate without traceparent: a receiver ignores it"),
        ([f'traceparent: "{PARENT}"'], "traceparent: the quotes are part of the value: take them off"),
        ([f"traceparent: {PARENT[:-2]}fd"], "flags 0xfc are unknown: they are sent as 0"),
        ([f"X-Cloud-Trace-Context: {TRACE}"], "a trace without a span: a receiver has no parent for its own"),
        (["x-datadog-trace-id: 7", "x-datadog-tags: a=1,_dd.p.b=2"], "tags that do not begin with _dd.p. are not"),
    ],
)
def test_suspicious_headers_are_warned_of(headers, warning):
    assert any(said.startswith(warning) for said in found(*headers).warnings)


@pytest.mark.parametrize("line", ["b3: {}", "uberctx-k{}: 1", "UBERCTX_K{}=1"])
def test_past_a_thousand_trace_headers_in_one_message_nothing_is_looked_at_and_that_is_said(line):
    few, many = ([line.format(at) for at in range(count)] for count in (1000, 1001))
    assert report(*few).warnings == []
    assert report(*many).warnings == ["more than 1000 trace headers: the others were not looked at"]


def test_the_first_thousand_names_are_compared_with_those_of_trace_headers():
    others = [f"x-{number}: 1" for number in range(998)]
    assert len(report("b3: 0", *others, f"trace-parent: {PARENT}").warnings) == 1
    assert report("b3: 0", *others, "x-more: 1", f"trace-parent: {PARENT}").warnings == []


def test_of_many_headers_of_one_format_the_first_64_are_shown():
    for count, more in ((64, []), (66, ["  … and 2 more"])):
        found = report(f"traceparent: {PARENT}", *["tracestate: a=1"] * (count - 1))
        shown = ["".join(text for text, _ in line) for line in segments_of([found], 80)]
        assert sum(line.startswith("  tracestate: ") for line in shown) == 63
        assert [line for line in shown if line.startswith("  … and")] == more


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trace-parent", "traceparent"),
        ("Trace-Parent-Id", "traceparent"),
        ("traceparents", "traceparent"),
        ("trace_state", "tracestate"),
        ("X-B3-Trace-Id", "x-b3-traceid"),
        ("X-DataDog-TraceId", "x-datadog-trace-id"),
        ("uber_trace_id", "uber-trace-id"),
    ],
)
def test_a_misspelled_name_is_asked_about(name, meant):
    warnings = report("b3: 0", f"{name}: {PARENT}").warnings
    assert warnings == [f"{name} is no trace header: did you mean {meant}?"]
    with pytest.raises(DumpError, match=rf"no trace header found; {name} is no trace header: did you mean {meant}\?"):
        report(f"{name}: {PARENT}")


def test_other_names_are_not_asked_about():
    assert report("b3: 0", "X-Trace-Id: 1", "X-Request-Id: 1", "tracking: 1", "Tracer: x").warnings == []


def test_a_variable_in_lower_case_is_asked_about():
    warnings = report("B3=0", f"traceparent={PARENT}").warnings
    assert warnings == ["traceparent is not a variable that receivers read: did you mean TRACEPARENT?"]


def test_formats_that_name_different_traces_are_warned_of():
    other = f"b3: {'a1' * 16}-{SPAN}"
    assert report(f"traceparent: {PARENT}", other).warnings == [
        "tracecontext and b3 name different traces: a receiver continues the one it reads first, and may link to the other"
    ]
    assert report(f"traceparent: {PARENT}", f"b3: {TRACE[16:]}-{SPAN}").warnings == [
        "tracecontext and b3 name traces that differ in the high 64 bits: one has lost them"
    ]
    assert report(f"traceparent: {PARENT}", f"b3: {TRACE}-{SPAN}", "baggage: a=1").warnings == []


# Conversions


def conversions(*headers, to=("all",)):
    return {conversion.format: conversion for conversion in report(*headers, to=to).conversions}


@pytest.mark.parametrize("name", [name for name in _FORMATS if name != "baggage"])
def test_ids_reach_every_format_from_every_format(name):
    made = conversions(*EXAMPLES[name], *EXAMPLES["baggage"])
    assert list(made) == [*_FORMATS, "environ"]
    for other, conversion in made.items():
        fields = conversion.headers
        if other == "environ":
            (back,) = examine(read_arguments([f"{name}={value}" for name, value in fields.items()]))
        else:
            (back,) = examine([Message("", list(fields.items()))])
        assert back.ok
        if other != "baggage":
            assert (back.context.trace_id, back.context.span_id) == (TRACE, SPAN)


def test_what_a_format_cannot_carry_is_said():
    made = conversions(f"traceparent: {PARENT[:-2]}03", "tracestate: dd=s:2,a=1", "baggage: user=x;ttl=5")
    assert made["tracecontext"].lost == ["labels are lost: user; they go to baggage"]
    assert made["baggage"].lost == ["the ids and the decision are lost", "the tracestate is lost: dd, a"]
    assert made["b3"].lost == ["the random flag is lost", "the tracestate is lost: dd, a", "labels are lost: user"]
    assert made["jaeger"].lost[-1] == "the properties of labels are lost: user"
    assert made["environ"].lost == []
    assert made["datadog"].notes == [
        "x-datadog-trace-id: the high 64 bits go to x-datadog-tags",
        "the ids are sent in decimal",
    ]
    assert made["cloudtrace"].notes == ["the span id is sent in decimal"]


def test_an_open_decision_is_not_made_silently():
    made = conversions(f"b3: {TRACE}-{SPAN}")
    assert made["tracecontext"].headers == {"traceparent": f"{PARENT[:-2]}00"}
    assert made["tracecontext"].lost == ["no decision: it is sent as not sampled"]
    assert made["xray"].lost == []


def test_words_of_one_format_are_lost_in_another_and_kept_in_their_own():
    made = conversions(*EXAMPLES["xray"])
    assert made["xray"].lost == []
    assert made["b3"].lost == ["values of xray are lost: Sampled, Lineage"]
    assert conversions(*EXAMPLES["datadog"])["b3"].lost == ["values of datadog are lost: priority, origin, tags"]


def test_what_cannot_be_written_at_all_says_why():
    made = conversions("b3: 0")
    assert made["tracecontext"].headers == {}
    assert made["tracecontext"].lost == ["nothing can be written: it needs a trace id and a span id"]
    assert made["baggage"].lost == ["nothing can be written: there are no labels"]
    assert made["b3"].headers == {"b3": "0"}
    assert report(f"traceparent: {BAD_PARENT}", to=["all"]).conversions == []


def test_the_configured_formats_stay_as_they_are():
    before = _propagation.formats()
    report("b3: 0", to=["all"])
    with pytest.raises(DumpError, match="no such format: 'x': expected all or one of tracecontext, "):
        report("b3: 0", to=["x"])
    assert _propagation.formats() is before


# The command


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([f"traceparent: {PARENT}"], 0),
        (["b3: 0", f"traceparent: {BAD_PARENT}"], 1),
        (["Host: shop.example"], 2),
        (["b3"], 2),
        (["b3: 0", "--to", "x"], 2),
    ],
)
def test_the_status_tells_good_from_bad_from_nothing(capsys, arguments, status):
    assert main(["header", *arguments]) == status
    out, err = capsys.readouterr()
    assert bool(out) is (status < 2)
    assert err.startswith("tracekit: ") is (status == 2)
    assert err.count("\n") == (status == 2)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_without_arguments_it_reads_standard_input(arguments):
    done = run(*arguments, "--json", input=CURL.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    document = json.loads(done.stdout)
    assert [message["title"] for message in document["messages"]] == ["request GET /a", "response 200"]


def test_json_is_one_document_with_everything(capsys):
    headers = [f"traceparent: {BAD_PARENT}", f"B3: {TRACE}-{SPAN}-1", "trace-parent: x"]
    assert main(["header", "--json", "--to", "jaeger", *headers]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    (message,) = document.pop("messages")
    assert document == {"ok": False}
    bad, good = message.pop("found")
    context = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "flags": 1,
        "sampled": True,
        "state": [],
        "labels": [],
        "extra": {},
    }
    assert bad == {
        "format": "tracecontext",
        "ok": False,
        "headers": [{"field": "traceparent", "name": "traceparent", "value": BAD_PARENT}],
        "context": None,
        "words": [],
        "problems": [
            {
                "field": "traceparent",
                "reason": "hex digits must be lowercase",
                "column": 6,
                "then": "a receiver starts a new trace",
            }
        ],
        "warnings": [],
    }
    assert (good["format"], good["ok"], good["context"]) == ("b3", True, context)
    assert good["words"][-1] == {"what": "decision", "value": "sampled", "meaning": ""}
    assert message == {
        "title": "",
        "is_environ": False,
        "ok": False,
        "context": context,
        "warnings": ["trace-parent is no trace header: did you mean traceparent?"],
        "conversions": [
            {"format": "jaeger", "headers": {"uber-trace-id": f"{TRACE}:{SPAN}:0:1"}, "lost": [], "notes": []}
        ],
    }


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_that_a_header_says_can_steer_the_terminal(encoding, options):
    fields = dict.fromkeys([*_OWNERS, *(f"{prefix}{HOSTILE}" for prefix in _PREFIXES)], HOSTILE)
    fields["baggage"] = f"a={HOSTILE},b=%1B%5B31m%E2%80%AE"
    fields |= {f"trace-parent{HOSTILE}": "x", "tracestate": HOSTILE, "server-timing": f"trace;desc={HOSTILE}"}
    document = har(pairs(**fields), pairs(**{"Trace-Parent": "x", "uberctx-a": "%1B%5B31m%0D%0A"}))
    document["log"]["entries"][0]["request"]["url"] = f"http://{HOSTILE}"
    done = run("--to", "all", *options, input=json.dumps(document).encode(), PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (1, b"")
    shown = done.stdout.decode(encoding)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x80-\x9f\u202e\ud800]", shown)
    assert "[bold]" in shown


@pytest.mark.parametrize(
    "octets",
    [
        bytes(range(256)) * 64,
        b"traceparent: \xff\xfe\x00\x1b[31m\n",
        b"\xff\xfe" + b"\xd8" * 999,
        b"b3: 0\n" * 100_000,
        b"baggage: " + b"," * 1_000_000,
        b"traceparent: " + b"0" * 1_000_000,
        b"tracestate: " + b"a=1," * 500_000,
        b"".join(b"uberctx-%d: 1\n" % at for at in range(100_000)),
        b"".join(b"trace-%d: 1\n" % at for at in range(100_000)),
        b"".join(b"TRACE_%d=1\n" % at for at in range(100_000)),
        b'{"headers": ' * 900 + b"{}" + b"}" * 900,
    ],
)
def test_hostile_bytes_on_standard_input_are_no_traceback(octets):
    done = run("--to", "all", input=octets)
    assert done.returncode in (0, 1, 2)
    assert done.stderr.count(b"\n") == (done.returncode == 2)
    assert len(done.stdout) < 100_000
    assert all(line.isprintable() for line in (done.stdout + done.stderr).decode().split("\n"))


def test_more_than_the_limit_is_refused():
    done = run(input=b"b3: 0\n" + b" " * MAX_BYTES)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"tracekit: more than 16 MiB: expected ")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
def test_a_closed_standard_input_is_an_empty_one():
    done = subprocess.run(
        ["sh", "-c", '"$0" -m tracekit header <&-', sys.executable],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"tracekit: nothing came: ")


def test_a_reader_that_goes_away_is_no_error():
    assert without_reader("header", *EXAMPLES["datadog"], "--to", "all") == (141, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("env", "is_colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_color_unless_it_declines(env, is_colored):
    status, shown = in_terminal("header", f"traceparent: {BAD_PARENT}", width=50, **env)
    assert status == 1
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert ("\x1b[1;31m" in shown) is is_colored
    assert "\x1b" not in plain
    value, caret = plain.splitlines()[1:3]
    assert cells(value) <= 50
    assert value[caret.index("^")] == "F"


def test_without_rich_it_is_plain_with_one_line_that_says_what_to_install(capsys, monkeypatch):
    main(["header", "b3: 0"])
    expected = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["header", "b3: 0"]) == 0
    assert capsys.readouterr() == (expected, "tracekit: plain text; for color: pip install 'tracekit-async[cli]'\n")
    assert main(["header", "b3: 0", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_line_does_not_load_the_wire_lab_before_it_is_asked_for():
    code = (
        "import sys, tracekit.cli.main; print(sorted(n for n in sys.modules if 'cli.header' in n or 'wire.xray' in n))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (b"[]", b"")


# docs/wire.md


PAGE = (REPOSITORY / "docs" / "wire.md").read_text(encoding="utf-8") if (REPOSITORY / "docs").is_dir() else ""
# A command and what it prints, each up to the next one.
SHOWN = re.findall(r"^\$ ([^\n]*tracekit header[^\n]*)\n((?:(?!\$ |```).*\n)*)", PAGE, re.MULTILINE)


def test_the_page_has_every_format_with_its_fields():
    rows = {
        row[0]: set(re.findall(r"`([\w*-]+)`", row[1]))
        for row in re.findall(r"^\| `(\w[\w-]*)` \| (.*?) \|", PAGE.partition("## Cost")[0], re.MULTILINE)
    }
    assert rows.pop("environ") == {"TRACEPARENT", "TRACESTATE", "BAGGAGE"}
    fields = {
        name: {*format.fields, *(f"{prefix}*" for prefix in getattr(format, "prefixes", ()))}
        for name, format in _FORMATS.items()
    }
    assert rows == fields
    assert {*rows, "environ"} == set(TITLES)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (f"00-{TRACE}-{SPAN}-01", "traceparent"),
        (f"00-{TRACE.upper()}-{SPAN}", "traceparent"),
        (f"{TRACE}-{SPAN}-d", "b3"),
        (f"{SPAN}-{SPAN}", "b3"),
        (f"{TRACE}:{SPAN}:0:1", "uber-trace-id"),
        (f"{TRACE}%3A{SPAN}%3A0%3A1", "uber-trace-id"),
        (f"Root=1-{TRACE[:8]}-{TRACE[8:]}", "X-Amzn-Trace-Id"),
    ],
)
def test_a_value_without_its_name_is_asked_about(capsys, value, name):
    assert main(["header", value]) == 2
    assert capsys.readouterr() == ("", f"tracekit: a value without its name: did you mean '{name}: {value}'?\n")
    main(["header", f"{name}: {value}"])
    assert name in capsys.readouterr().out


def test_the_page_names_every_count():
    counts = {name for name, format in _constants() if hasattr(format, "left_out")}
    assert set(re.findall(r"`([A-Z]+)\.left_out`", PAGE)) == counts


def test_the_page_names_every_name_of_the_environment():
    (line,) = re.findall(r"^The names in `OTEL_PROPAGATORS` are (.*)\.$", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", line) == [*_NAMES, "none"]


def _constants():
    for info in pkgutil.iter_modules(wire.__path__):
        module = importlib.import_module(f"tracekit.wire.{info.name}")
        yield from ((name, getattr(module, name)) for name in getattr(module, "__all__", ()) if name.isupper())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
@pytest.mark.parametrize(("command", "output"), [row for row in SHOWN if row[1]], ids=lambda text: text[:60])
def test_the_output_that_the_pages_show_is_real(command, output):
    done = subprocess.run(
        ["sh", "-c", f'tracekit() {{ "$PYTHON" -m tracekit "$@"; }}\n{command}'],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHON": sys.executable, "COLUMNS": "100", "PYTHONUTF8": "1"},
        timeout=60,
    )
    assert (done.stdout.decode(), done.stderr) == (output, b"")


def test_the_pages_show_what_is_checked():
    assert len([output for _, output in SHOWN if output]) == 3
    assert all(output or command.endswith("in every other format") for command, output in SHOWN)
