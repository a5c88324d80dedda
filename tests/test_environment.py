"""What ``configure()`` reads of the environment, and what becomes of it where it is empty, wrong, or overruled."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import AlwaysOff, AlwaysOn, Limits, Ratio, _configure, _environment, _propagation
from tracekit._core.buffer import buffer
from tracekit.cli.main import main
from tracekit.exporters._otlp.settings import otlp_settings, without_secrets
from tracekit.exporters.sqlite import SQLiteExporter
from tracekit.integrations._peers import Peers
from tracekit.testing import MemoryExporter
from tracekit.wire import b3, w3c

SECRET = "Zk7secret"


def resource(key="service.name"):
    return _configure.tracer_in_use().resource.get(key)


def limit(name):
    return getattr(_configure.tracer_in_use().limits, name)


def threshold():
    return _configure.tracer_in_use().threshold


def said(caplog):
    return [record.getMessage() for record in caplog.records]


class Setting(NamedTuple):
    """A variable: how to see what it does, what it may say, what it may not, and which argument wins."""

    variable: str
    look: Any
    default: Any
    right: dict[str, Any]
    wrong: dict[str, str]
    argument: dict[str, Any]
    overruled: Any
    besides: dict[str, str] = {}  # noqa: RUF012


ON, QUARTER, OFF = AlwaysOn.threshold, Ratio(0.25).threshold, AlwaysOff.threshold
SAMPLERS = (
    "must be one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, "
    "parentbased_traceidratio; parentbased_always_on is used"
)
COUNT = "must be a whole number from 0 to 2147483648; {} is used"
LIMITS = Limits(attributes=7, events=7, links=7, value_length=7)
SETTINGS = [
    Setting(
        "OTEL_SERVICE_NAME",
        resource,
        "unknown_service",
        {"shop": "shop", " Café ": "Café", "a=b,c": "a=b,c"},
        {},
        {"service": "mine"},
        "mine",
    ),
    Setting(
        "OTEL_RESOURCE_ATTRIBUTES",
        lambda: (resource(), resource("region")),
        ("unknown_service", None),
        {
            "service.name=shop": ("shop", None),
            " region = north , ,service.name=a%3Db%2Cc": ("a=b,c", "north"),
            "region=a=b": ("unknown_service", "a=b"),
            "region=,": ("unknown_service", ""),
            "region=Caf%C3%A9 é": ("unknown_service", "Café é"),
            "telemetry.sdk.name=x,region=1": ("unknown_service", "1"),
        },
        {
            "region=north,south": "must be name=value,name=value: member 2 is not; nothing of it is used",
            "=north": "must be name=value,name=value: member 1 is not; nothing of it is used",
            "region=%zz": "must be percent-encoded UTF-8: member 1 is not; nothing of it is used",
            "region=%4": "must be percent-encoded UTF-8: member 1 is not; nothing of it is used",
            "region=%ff": "must be percent-encoded UTF-8: member 1 is not; nothing of it is used",
            "region=" + "x" * 70000: "must be at most 65536 characters; nothing of it is used",
        },
        {"service": "mine", "resource": {"region": "west"}},  # attribute by attribute
        ("mine", "west"),
    ),
    Setting(
        "OTEL_PROPAGATORS",
        lambda: list(_propagation.formats()),
        [w3c.TRACECONTEXT, w3c.BAGGAGE],
        {
            "b3": [b3.SINGLE],
            "B3multi, tracecontext,b3multi": [b3.MULTI, w3c.TRACECONTEXT],
            "none": [],
            ",": [w3c.TRACECONTEXT, w3c.BAGGAGE],
        },
        {},  # tests/test_propagation.py
        {"formats": [w3c.BAGGAGE]},
        [w3c.BAGGAGE],
    ),
    Setting(
        "OTEL_TRACES_SAMPLER",
        threshold,
        ON,
        {
            "always_on": ON,
            "Always_Off": OFF,
            "parentbased_always_on": ON,
            "parentbased_always_off": OFF,
            "traceidratio": ON,
            "parentbased_traceidratio": ON,
        },
        dict.fromkeys(["xray", "jaeger_remote", "parentbased_parentbased_always_off", "0.5"], SAMPLERS),
        {"sampler": Ratio(0.25)},
        QUARTER,
    ),
    Setting(
        "OTEL_TRACES_SAMPLER_ARG",
        threshold,
        ON,
        {"0.25": QUARTER, "25e-2": QUARTER, "0": OFF, "1": ON, "1.0": ON},
        dict.fromkeys(
            ["1.1", "-0.1", "nan", "inf", "25%", "0_1", "0,25", "\uff10"], "must be a number from 0 to 1; 1.0 is used"
        ),
        {"sampler": AlwaysOff()},
        OFF,
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"},
    ),
    Setting(
        "OTEL_TRACES_SAMPLER_ARG",
        threshold,
        OFF,
        {"0.25": OFF, "nonsense": OFF},  # always_off has no use for it
        {},
        {"sampler": AlwaysOn()},
        ON,
        {"OTEL_TRACES_SAMPLER": "always_off"},
    ),
    Setting(
        "OTEL_BSP_SCHEDULE_DELAY",
        lambda: _configure._pipeline._worker.interval_s,
        1.0,
        {"1": 0.001, "5000": 5.0, "3600000": 3600.0},
        dict.fromkeys(
            ["0", "-1", "5s", "1.5", "+5", "1_000", "\uff11", "3600001", "9" * 5000],
            "must be a whole number from 1 to 3600000; 1000 is used",
        ),
        {"export_interval_s": 7},
        7,
    ),
    Setting(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        lambda: buffer.capacity,
        16384,
        {"2": 2, "2048": 2048, "16777216": 1 << 24},
        dict.fromkeys(["0", "1", "-5", "many", "16777217"], "must be a whole number from 2 to 16777216; 16384 is used"),
        {"buffer_size": 7},
        7,
    ),
    Setting(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        lambda: _configure._pipeline._worker.batch_size,
        2048,
        {"1": 1, "512": 512, "16384": 16384},
        dict.fromkeys(["0", "-5", "all", "16385"], "must be a whole number from 1 to 16384; the default is used"),
        {"batch_size": 7},
        7,
    ),
    Setting(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        lambda: _configure._pipeline._worker.batch_size,
        100,
        {"1": 1, "100": 100},
        {"101": "must be a whole number from 1 to 100; the default is used"},
        {"batch_size": 64},
        64,
        {"OTEL_BSP_MAX_QUEUE_SIZE": "100"},
    ),
    *[
        Setting(
            variable,
            lambda name=name: limit(name),
            getattr(Limits(), name),
            {"0": 0, "12": 12, "2147483648": 1 << 31},
            dict.fromkeys(["-1", "none", "1.0", "2147483649"], COUNT.format(getattr(Limits(), name))),
            {"limits": LIMITS},
            7,
        )
        for variable, name in [
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "attributes"),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "attributes"),
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "value_length"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "value_length"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "events"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "links"),
        ]
    ],
    *[
        Setting(
            f"OTEL_SPAN_ATTRIBUTE_{name}_LIMIT",
            lambda field=field: limit(field),
            12,
            {"13": 13},
            {"-1": f"must be a whole number from 0 to 2147483648; OTEL_ATTRIBUTE_{name}_LIMIT is used"},
            {"limits": LIMITS},
            7,
            {f"OTEL_ATTRIBUTE_{name}_LIMIT": "12"},
        )
        for name, field in [("COUNT", "attributes"), ("VALUE_LENGTH", "value_length")]
    ],
    Setting(
        "OTEL_SDK_DISABLED",
        lambda: _configure.tracer_in_use().recording,
        True,
        {"true": False, "TRUE": False, "false": True, "False": True},
        dict.fromkeys(["yes", "1", "on", "\n\x00"], "must be true or false; false is used"),
        {"environ": {}},
        True,
    ),
]


def rows(of):
    return [
        pytest.param(setting, *row, id=f"{setting.variable}-{row[0][:20]!a}" if row else setting.variable)
        for setting in SETTINGS
        for row in of(setting)
    ]


def configured(setting, value=None, **arguments):
    environ = setting.besides if value is None else {**setting.besides, setting.variable: value}
    tracekit.configure(**{"environ": environ, "exporter": MemoryExporter(), **arguments})
    return setting.look()


@pytest.mark.parametrize(("setting", "value"), [(setting, value) for setting in SETTINGS for value in ("", " \t")])
def test_a_variable_that_is_empty_counts_as_unset(setting, value, caplog):
    assert configured(setting) == setting.default
    assert configured(setting, value) == setting.default
    assert said(caplog) == []


@pytest.mark.parametrize(("setting", "value", "meaning"), rows(lambda setting: setting.right.items()))
def test_a_variable_is_understood(setting, value, meaning, caplog):
    assert configured(setting, value) == meaning
    assert said(caplog) == []


@pytest.mark.parametrize(("setting", "value", "why"), rows(lambda setting: setting.wrong.items()))
def test_a_wrong_variable_is_one_warning_and_counts_as_unset(setting, value, why, caplog):
    for _ in range(2):
        assert configured(setting, value) == setting.default
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tracekit", logging.WARNING)
    shown = tracekit._core.errors.clip(value.strip())
    assert record.getMessage() == f"{setting.variable} is {shown}, {why}"
    assert record.getMessage().isprintable()


@pytest.mark.parametrize(
    ("setting", "value"),
    rows(lambda setting: [(value,) for value in [*list(setting.right)[:1], *list(setting.wrong)[:1]]]),
)
def test_an_argument_wins_and_what_is_not_used_is_not_complained_about(setting, value, caplog):
    assert configured(setting, value, **setting.argument) == setting.overruled
    is_used = setting.variable == "OTEL_RESOURCE_ATTRIBUTES"  # the other attributes of it are
    assert len(said(caplog)) == (is_used and value in setting.wrong)


def test_every_wrong_variable_has_its_line_and_says_it_once(caplog, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "xray")
    tracekit.configure()
    lines = said(caplog)
    assert sorted(line.split()[0] for line in lines) == [
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_SAMPLER",
    ]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "0")
    tracekit.configure()
    assert said(caplog)[3:] == ["OTEL_SDK_DISABLED is '0', must be true or false; false is used"]


def test_a_handler_that_raises_ends_no_start(caplog, monkeypatch):
    def explode(record):
        raise RuntimeError

    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "xray")
    logger = logging.getLogger("tracekit")
    logger.addFilter(explode)
    try:
        tracekit.configure()
    finally:
        logger.removeFilter(explode)
    assert said(caplog) == []


def test_lines_that_were_said_are_held_in_bounded_memory(caplog):
    for number in range(1000):
        tracekit.configure(environ={"OTEL_TRACES_SAMPLER": f"xray{number}"})
    assert len(said(caplog)) == len(_environment._logged) == 256


def test_the_name_of_the_service_wins_over_the_resource_and_a_resource_that_is_given_over_both():
    environ = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=store,region=north"}
    tracekit.configure(environ=environ)
    assert (resource(), resource("region")) == ("shop", "north")
    tracekit.configure(environ=environ, resource={"service.name": "mine"})
    assert (resource(), resource("region")) == ("mine", "north")


def test_disabled_nothing_is_recorded_and_contexts_go_on(exporter):
    before = tracekit.statistics().exported
    tracekit.configure(
        exporter=exporter,
        environ={"OTEL_SDK_DISABLED": "true", "OTEL_PROPAGATORS": "b3", "OTEL_TRACES_EXPORTER": "console"},
    )
    carrier = {"b3": f"{'a' * 32}-{'b' * 16}-1"}
    with tracekit.span("job", parent=tracekit.extract(carrier)):
        assert tracekit.inject({})["b3"].startswith("a" * 32)
    assert tracekit.flush(60)
    assert exporter.spans == []
    assert tracekit.statistics().exported == before


def test_configure_costs_no_import_that_it_does_not_need(tmp_path):
    program = """
        import sys
        before = set(sys.modules)
        import tracekit
        assert "tracekit._environment" not in sys.modules
        tracekit.configure()
        heavy = {"asyncio", "importlib.metadata", "json", "logging", "socket", "sqlite3", "ssl", "urllib"}
        print(sorted(heavy & (set(sys.modules) - before)), file=sys.stderr)
        """
    assert run(tmp_path, program) == "[]\n"


# ---- exporters


def in_use():
    worker = _configure._pipeline._worker
    return None if worker is None else worker.intake.exporter


class OTLPExporter(MemoryExporter):
    """Keep what it was made with; reads the environment as the real one does, and sends nothing."""

    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments
        self.settings, lines = otlp_settings(**arguments)
        _environment.say(lines)


OTLP = types.ModuleType("tracekit.exporters.otlp")
OTLP.OTLPExporter = OTLPExporter


@pytest.fixture
def otlp(monkeypatch):
    monkeypatch.setitem(sys.modules, OTLP.__name__, OTLP)


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
OF = "but must be one of otlp, console, sqlite, none"


@pytest.mark.parametrize(
    ("environ", "kind", "lines"),
    [
        ({}, "NoneType", []),
        ({"OTEL_TRACES_EXPORTER": ""}, "NoneType", []),
        ({"OTEL_TRACES_EXPORTER": "none"}, "NoneType", []),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, "NoneType", []),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTLPExporter", []),
        ({"OTEL_TRACES_EXPORTER": "Console"}, "ConsoleExporter", []),
        ({"OTEL_TRACES_EXPORTER": "sqlite"}, "SQLiteExporter", []),
        (ENDPOINT, "OTLPExporter", []),
        ({"OTEL_TRACES_EXPORTER": " , ", **ENDPOINT}, "OTLPExporter", []),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/"}, "OTLPExporter", []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, "NoneType", []),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "NoneType",
            [f"OTEL_TRACES_EXPORTER names 'zipkin', {OF}; none is used"],
        ),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin", **ENDPOINT},
            "OTLPExporter",
            [f"OTEL_TRACES_EXPORTER names 'zipkin', {OF}; otlp is used"],
        ),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin,console,otlp,\n"},
            "ConsoleExporter",
            [f"OTEL_TRACES_EXPORTER names 'zipkin', 'otlp' besides console, {OF}; console is used"],
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
            "OTLPExporter",
            ["OTEL_EXPORTER_OTLP_TIMEOUT is '10s', must be a whole number from 0 to 3600000; 10000 is used"],
        ),
    ],
)
def test_the_environment_names_the_exporter(environ, kind, lines, otlp, caplog):
    tracekit.configure(environ=environ)
    assert type(in_use()).__name__ == kind
    assert _configure.tracer_in_use().recording == (kind != "NoneType")
    assert said(caplog) == lines
    memory = MemoryExporter()
    tracekit.configure(environ=environ, exporter=memory)
    assert in_use() is memory
    assert said(caplog) == lines


def test_an_environment_that_is_given_is_the_exporters_too(otlp, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    tracekit.configure()
    assert in_use().arguments == {}
    assert in_use().settings == {"endpoint": "http://collector:4318/v1/traces"}
    tracekit.configure(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other"})
    assert in_use().settings == {"endpoint": "http://other/v1/traces"}


@pytest.mark.parametrize(("name", "protocol"), [("otlp_proto_http", "http/protobuf"), ("OTLP_proto_grpc", "grpc")])
def test_the_names_of_opentelemetrys_own_exporters_fix_the_protocol(name, protocol, otlp, caplog):
    environ = {"OTEL_TRACES_EXPORTER": name, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", **ENDPOINT}
    tracekit.configure(environ=environ)
    assert in_use().arguments == {"environ": environ, "protocol": protocol}
    assert in_use().settings["endpoint"] == ("http://collector:4318" + "/v1/traces" * (protocol != "grpc"))
    tracekit.configure(environ={"OTEL_TRACES_EXPORTER": f"{name},console"})
    assert type(in_use()).__name__ == "OTLPExporter"
    assert said(caplog) == [
        f"OTEL_TRACES_EXPORTER names 'console' besides {name.lower()}, {OF}; {name.lower()} is used"
    ]


def test_without_what_otlp_needs_there_is_one_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tracekit.exporters.otlp", None)
    tracekit.configure(environ=ENDPOINT)
    tracekit.configure(environ=ENDPOINT)
    assert in_use() is None
    assert said(caplog) == [
        "exporter otlp needs 'tracekit.exporters.otlp': this Python was built without it; nothing is exported"
    ]


@pytest.mark.parametrize("error", [OSError(2, "no such certificate"), ValueError("é\n"), RuntimeError("x" * 5000)])
def test_an_exporter_that_cannot_be_made_is_a_warning(error, otlp, monkeypatch, caplog):
    def fail(self, **_):
        raise error

    monkeypatch.setattr(OTLPExporter, "__init__", fail)
    tracekit.configure(environ=ENDPOINT)
    assert in_use() is None
    (line,) = said(caplog)
    assert line.startswith(f"exporter otlp failed: {type(error).__name__}: ")
    assert line.endswith("; nothing is exported")
    assert len(line) < 600
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "path", "lines"),
    [
        ("", "traces.db", []),
        ("other.db", "other.db", []),
        ("a\0b", "traces.db", ["TRACEKIT_SQLITE_PATH is 'a\\x00b', must name a file; traces.db is used"]),
    ],
)
def test_the_environment_names_the_file_of_spans(value, path, lines, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracekit.configure(environ={"OTEL_TRACES_EXPORTER": "sqlite", "TRACEKIT_SQLITE_PATH": value})
    assert isinstance(in_use(), SQLiteExporter)
    assert in_use().path == str(tmp_path / path)
    assert said(caplog) == lines


PROGRAM = """
    import tracekit
    tracekit.configure()
    with tracekit.span("checkout"):
        with tracekit.span("price"):
            pass
    """


def run(tmp_path, program=PROGRAM, **variables):
    """Run *program*, which prints nothing, with *variables*; return what it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr


def test_a_program_prints_its_spans_where_the_environment_says_so(tmp_path):
    lines = run(tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="shop").splitlines()
    head, checkout, price, end = lines
    assert head.split()[:1] + head.split()[2:3] == ["trace", "shop"]
    assert checkout.startswith("checkout ")
    assert " price " in price
    assert not price.startswith("price")
    assert end == ""


def test_a_program_stores_its_spans_where_the_environment_says_so(tmp_path):
    assert run(tmp_path, OTEL_TRACES_EXPORTER="sqlite", TRACEKIT_SQLITE_PATH="kept.db", OTEL_SERVICE_NAME="shop") == ""
    connection = sqlite3.connect(tmp_path / "kept.db")
    try:
        found = connection.execute("SELECT service, name, parent_id IS NULL FROM spans ORDER BY start_ns").fetchall()
    finally:
        connection.close()
    assert found == [("shop", "checkout", 1), ("shop", "price", 0)]


# ---- OTLP

P = "OTEL_EXPORTER_OTLP_"
URL = "must be a URL such as http://localhost:4318"
DEFAULT_URL = "http://localhost:4318/v1/traces is used"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {}),
        ({f"{P}ENDPOINT": "", f"{P}HEADERS": " ", "TRACEKIT_SPOOL": ""}, {}),
        # the examples of the specification
        ({f"{P}ENDPOINT": "http://collector:4318"}, {"endpoint": "http://collector:4318/v1/traces"}),
        ({f"{P}TRACES_ENDPOINT": "http://collector:4318"}, {"endpoint": "http://collector:4318/"}),
        ({f"{P}ENDPOINT": "http://c:4318/mine/"}, {"endpoint": "http://c:4318/mine/v1/traces"}),
        ({f"{P}TRACES_ENDPOINT": "https://c/v1/traces/"}, {"endpoint": "https://c/v1/traces/"}),
        ({f"{P}ENDPOINT": "http://c/mine"}, {"endpoint": "http://c/mine/v1/traces"}),
        ({f"{P}ENDPOINT": "http://u:p@[::1]:4318?k=v"}, {"endpoint": "http://u:p@[::1]:4318/v1/traces?k=v"}),
        ({f"{P}TRACES_ENDPOINT": "HTTP://C?k="}, {"endpoint": "http://C/?k="}),
        ({f"{P}TRACES_ENDPOINT": "http://a/x", f"{P}ENDPOINT": "http://b"}, {"endpoint": "http://a/x"}),
        ({f"{P}PROTOCOL": "GRPC", f"{P}ENDPOINT": "http://c:4317"}, {"protocol": "grpc", "endpoint": "http://c:4317"}),
        ({f"{P}PROTOCOL": "grpc", f"{P}ENDPOINT": "c:4317"}, {"protocol": "grpc", "endpoint": "c:4317"}),
        ({f"{P}PROTOCOL": "grpc", f"{P}INSECURE": "True"}, {"protocol": "grpc", "insecure": True}),
        ({f"{P}INSECURE": "true"}, {}),
        ({f"{P}PROTOCOL": "grpc", f"{P}TRACES_PROTOCOL": "http/json"}, {"protocol": "http/json"}),
        ({f"{P}HEADERS": " API-Key = a%20b "}, {"headers": {"api-key": "a b"}}),
        ({f"{P}HEADERS": "a=1==,b=,,c=Basic x;y"}, {"headers": {"a": "1==", "b": "", "c": "Basic x;y"}}),
        ({f"{P}HEADERS": "a=1", f"{P}TRACES_HEADERS": "b=2"}, {"headers": {"b": "2"}}),
        ({f"{P}TIMEOUT": "2500"}, {"timeout_s": 2.5}),
        ({f"{P}TIMEOUT": "2500", f"{P}TRACES_TIMEOUT": "1"}, {"timeout_s": 0.001}),
        ({f"{P}TIMEOUT": "0"}, {"timeout_s": 3600.0}),
        ({f"{P}COMPRESSION": "gzip"}, {"compression": "gzip"}),
        ({f"{P}COMPRESSION": "gzip", f"{P}TRACES_COMPRESSION": "None"}, {"compression": "none"}),
        ({f"{P}CERTIFICATE": "ca.pem"}, {"certificate": "ca.pem"}),
        ({f"{P}CERTIFICATE": "ca.pem", f"{P}TRACES_CERTIFICATE": "own.pem"}, {"certificate": "own.pem"}),
        (
            {f"{P}CLIENT_CERTIFICATE": "c.pem", f"{P}TRACES_CLIENT_KEY": "k.pem"},
            {"client_certificate": "c.pem", "client_key": "k.pem"},
        ),
        ({"TRACEKIT_SPOOL": "spool.db"}, {"spool": "spool.db"}),
    ],
)
def test_the_variables_of_otlp_are_arguments(environ, found):
    assert otlp_settings(environ) == (found, [])


@pytest.mark.parametrize(
    ("environ", "found", "lines"),
    [
        *[
            ({f"{P}ENDPOINT": url}, {}, [f"{P}ENDPOINT is {shown}, {URL}; {DEFAULT_URL}"])
            for url, shown in [
                ("collector:4318", "'collector:4318'"),
                ("ftp://c", "'ftp://c'"),
                ("http://", "'http://'"),
                ("http://c:99999", "'http://c:99999'"),
                ("http://c:0", "'http://c:0'"),
                ("http://[::1", "'http://[::1'"),
                ("http://c d", "'http://c d'"),
                ("http://c\n.d", "'http://c\\n.d'"),
                (f"https//user:{SECRET}@c", "'...@c'"),
                (f"http://user:{SECRET}?#@c d?{SECRET}", "'http://...@c d'"),
                (f"c?token={SECRET}", "'c'"),
            ]
        ],
        (
            {f"{P}TRACES_ENDPOINT": "c", f"{P}ENDPOINT": "http://d"},
            {"endpoint": "http://d/v1/traces"},
            [f"{P}TRACES_ENDPOINT is 'c', {URL}; {P}ENDPOINT is used"],
        ),
        (
            {f"{P}PROTOCOL": "grpc", f"{P}ENDPOINT": "c d"},
            {"protocol": "grpc"},
            [f"{P}ENDPOINT is 'c d', must be a URL or HOST:PORT; http://localhost:4317 is used"],
        ),
        (
            {f"{P}PROTOCOL": "http"},
            {},
            [f"{P}PROTOCOL is 'http', must be one of http/protobuf, http/json, grpc; http/protobuf is used"],
        ),
        (
            {f"{P}TRACES_COMPRESSION": "zstd", f"{P}COMPRESSION": "gzip"},
            {"compression": "gzip"},
            [f"{P}TRACES_COMPRESSION is 'zstd', must be one of gzip, none; {P}COMPRESSION is used"],
        ),
        (
            {f"{P}TIMEOUT": "-1"},
            {},
            [f"{P}TIMEOUT is '-1', must be a whole number from 0 to 3600000; 10000 is used"],
        ),
        (
            {f"{P}PROTOCOL": "grpc", f"{P}INSECURE": "1"},
            {"protocol": "grpc"},
            [f"{P}INSECURE is '1', must be true or false; false is used"],
        ),
        (
            {f"{P}CERTIFICATE": "a\0"},
            {},
            [f"{P}CERTIFICATE is 'a\\x00', must name a file; none is used"],
        ),
        ({"TRACEKIT_SPOOL": "a\0"}, {}, ["TRACEKIT_SPOOL is 'a\\x00', must name a file; no spool is used"]),
        *[
            ({f"{P}HEADERS": text}, {}, [f"{P}HEADERS is (kept secret), {why}; no header is used"])
            for text, why in [
                (SECRET, "must be name=value,name=value: member 1 is not"),
                (f"a=1,={SECRET}", "must be name=value,name=value: member 2 is not"),
                (f"a=%{SECRET}", "must be percent-encoded UTF-8: member 1 is not"),
                (f"a={SECRET}%0d%0ab: c", "must hold values of printable ASCII: that of header 1 is not"),
                (f"a={SECRET}\0", "must hold values of printable ASCII: that of header 1 is not"),
                (f"a={SECRET}é", "must hold values of printable ASCII: that of header 1 is not"),
                (f"a b={SECRET}", "must hold valid header names: that of header 1 is not"),
                (f"a%0a={SECRET}", "must hold valid header names: that of header 1 is not"),
                (f"a=1,{SECRET}:=1", "must hold valid header names: that of header 2 is not"),
            ]
        ],
    ],
)
def test_a_wrong_variable_of_otlp_is_a_line_without_secrets(environ, found, lines):
    assert otlp_settings(environ) == (found, lines)


def test_secrets_of_a_url_are_left_out():
    assert without_secrets(f"https://u:{SECRET}@c:1/p?{SECRET}#{SECRET}") == "https://...@c:1/p"
    assert without_secrets("http://c:4318/v1/traces") == "http://c:4318/v1/traces"


VARIABLES = [
    *{setting.variable for setting in SETTINGS} - {"OTEL_PROPAGATORS"},
    *("OTEL_PROPAGATORS", "OTEL_TRACES_EXPORTER", "TRACEKIT_SQLITE_PATH", "TRACEKIT_SPOOL"),
    *[
        f"{P}{traces}{name}"
        for traces in ("", "TRACES_")
        for name in ("ENDPOINT", "TIMEOUT", "COMPRESSION", "PROTOCOL", "INSECURE", "CERTIFICATE", "CLIENT_KEY")
    ],
]
VALUES = [
    *{value for setting in SETTINGS for value in [*setting.right, *setting.wrong]},
    *("otlp", "console", "sqlite", "grpc", "http/json", "gzip", "a\0b", "\udcff"),
    "http://c:4318",
]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    environ=st.dictionaries(
        st.sampled_from(sorted(VARIABLES)), st.sampled_from(sorted(VALUES)) | st.text() | st.characters(), max_size=12
    ),
    headers=st.dictionaries(
        st.sampled_from([f"{P}HEADERS", f"{P}TRACES_HEADERS"]),
        st.tuples(st.text("a=%,; \r\0é"), st.text("a=%,;0 \r\0é")),
    ),
    endpoints=st.dictionaries(
        st.sampled_from([f"{P}ENDPOINT", f"{P}TRACES_ENDPOINT"]),
        st.tuples(
            st.sampled_from(["http://", "https//", ""]) | st.text(), st.sampled_from(["c:4318", "["]) | st.text()
        ),
    ),
)
def test_no_environment_makes_configure_raise_or_tell_a_secret(environ, headers, endpoints):
    environ |= {name: f"{before}{SECRET}{after}" for name, (before, after) in headers.items()}
    environ |= {name: f"{before}u:{SECRET}@{after}" for name, (before, after) in endpoints.items()}
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("tracekit")
    logger.addHandler(handler)
    _environment._logged.clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, OTLP.__name__, OTLP)
            tracekit.configure(environ=environ)
        settings, wrong = otlp_settings(environ)
        assert "\r" not in str(settings.get("headers"))
        assert all(line.isprintable() for line in lines + wrong)
        assert not [line for line in lines + wrong if SECRET in line]
        assert len({line.split()[0] for line in lines}) == len(lines)
    finally:
        logger.removeHandler(handler)
        tracekit.configure(environ={})


def test_the_page_names_every_variable_that_is_read():
    class Noting(dict):
        def get(self, name, default=None):
            asked.add(name)
            return super().get(name, default)

    asked = {"TRACEKIT_STRICT"}  # read when tracekit is imported, as it holds without configure() too
    for environ in (
        {"OTEL_TRACES_EXPORTER": "sqlite", "OTEL_TRACES_SAMPLER": "traceidratio", f"{P}PROTOCOL": "grpc"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ):
        tracekit.configure(environ=Noting(environ))
        otlp_settings(Noting(environ))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", Noting())
        Peers()
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:OTEL|TRACEKIT)_[A-Z_]+)`", page.partition("## Not read")[0]))
    asked = {name.replace("_OTLP_TRACES_", "_OTLP_") for name in asked if name.startswith(("OTEL_", "TRACEKIT_"))}
    by_instrument = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"}
    assert asked == named - {f"{P}TRACES_ENDPOINT"} - by_instrument


# ---- tracekit doctor


def doctor(capsys, environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    status = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["ok"] else 1)
    return report["checks"]["configuration"]["text"], {
        name: check["text"] for name, check in report["checks"].items() if not check["ok"]
    }


def test_doctor_tells_what_the_environment_configures(capsys, monkeypatch, otlp):
    assert doctor(capsys, {}, monkeypatch) == (
        "exporter none; sampler AlwaysOn(); service unknown_service; propagators tracecontext, baggage",
        {},
    )
    environ = {
        f"{P}ENDPOINT": f"http://user:{SECRET}@collector:4318",
        f"{P}HEADERS": f"api-key={SECRET},x=1",
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_SERVICE_NAME": "shop\x1b",
        "OTEL_PROPAGATORS": "b3,baggage",
    }
    text, wrong = doctor(capsys, environ, monkeypatch)
    assert text == (
        "exporter otlp; endpoint http://...@collector:4318/v1/traces; headers api-key, x; sampler Ratio(0.1); "
        "service shop\\x1b; propagators b3, baggage"
    )
    assert wrong == {}
    text, _ = doctor(capsys, {"OTEL_SDK_DISABLED": "true"}, monkeypatch)
    assert text.startswith("exporter none, OTEL_SDK_DISABLED is true; sampler")
    text, _ = doctor(capsys, {"OTEL_SDK_DISABLED": "", "OTEL_TRACES_EXPORTER": "sqlite"}, monkeypatch)
    assert text.startswith("exporter sqlite traces.db; sampler")


def test_doctor_finds_every_variable_that_is_wrong(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tracekit.exporters.otlp", None)
    environ = {f"{P}ENDPOINT": "collector", "OTEL_BSP_SCHEDULE_DELAY": "5s", "OTEL_SPAN_LINK_COUNT_LIMIT": "-1"}
    _, wrong = doctor(capsys, environ, monkeypatch)
    assert wrong == {
        "exporter": "otlp needs 'tracekit.exporters.otlp': this Python was built without it; nothing is exported",
        f"{P}ENDPOINT": f"is 'collector', {URL}; {DEFAULT_URL}",
        "OTEL_BSP_SCHEDULE_DELAY": "is '5s', must be a whole number from 1 to 3600000; 1000 is used",
        "OTEL_SPAN_LINK_COUNT_LIMIT": f"is '-1', {COUNT.format(128)}",
    }
