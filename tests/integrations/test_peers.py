"""Which hosts get labels from the client integrations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracekit
from tracekit.integrations import _peers
from tracekit.integrations._peers import Peers

OWN = [
    "localhost",
    "LocalHost",
    "localhost.",
    "app.localhost",
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "[::1]",
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "[fd00::1]",
    "::ffff:10.0.0.1",
    "warehouse",
    "WAREHOUSE",
    "my_service-2",
    "db.internal",
    "DB.Internal.",
    "metadata.google.internal",
    "printer.local",
    "api.default.svc",
    "api.default.svc.cluster.local",
]
OTHERS = [
    "",
    ".",
    "example.com",
    "EXAMPLE.com.",
    "api.stripe.com",
    "internal.example.com",
    "localhost.example.com",
    "a.svc.example.com",
    "a.internals",
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "192.169.0.1",
    "11.0.0.1",
    "100.128.0.1",
    "169.254.169.254",  # the cloud's metadata service, run by its operator
    "2001:db8::1",
    "[2001:db8::1]",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:8.8.8.8",
    # Other spellings of addresses, which getaddrinfo() accepts.
    "134744072",
    "0x08080808",
    "8.8",
    "8.0x8",
    "010.0.0.1",
    "1.internal.0x7",
    "ai.",  # a top-level domain
    "b\u00fccher",
    "a b",
    "a\n",
    "a/b",
    "user@localhost",
    "localhost:80",
    "x" * 5000 + ".example.com",
]


@pytest.fixture(autouse=True)
def _nothing_logged(monkeypatch):
    monkeypatch.setattr(_peers, "_notices", _peers.Notices())
    monkeypatch.delenv("TRACEKIT_PROPAGATE_TO", raising=False)


@pytest.mark.parametrize("propagate_to", [None, [], ["shop.example"]], ids=str)
def test_own_hosts_get_labels_and_other_hosts_do_not(propagate_to):
    peers = Peers(propagate_to)
    for _ in range(2):
        assert [host for host in OWN if not peers.gets_labels(host)] == []
        assert [host for host in OTHERS if peers.gets_labels(host)] == []


NAMED = [
    (["a.example"], "a.example", True),
    (["a.example"], "A.EXAMPLE.", True),
    (["A.Example."], "a.example", True),
    ([" a.example "], "a.example", True),
    (["a.example"], "b.a.example", False),
    (["a.example"], "evila.example", False),
    (["a.example"], "a.example.evil.example", False),
    ([".a.example"], "b.a.example", True),
    (["*.a.example"], "c.b.a.example", True),
    (["*.A.Example."], "b.a.example", True),
    ([".a.example"], "a.example", False),
    (["*.a.example"], "evila.example", False),
    (["b.example", "a.example"], "a.example", True),
    (iter(["a.example"]), "a.example", True),
    (["203.0.113.7"], "203.0.113.7", True),
    (["203.0.113.7"], "203.0.113.8", False),
    (["2001:DB8:0::1"], "2001:db8::1", True),
    (["[2001:db8::1]"], "[2001:db8::1]", True),
    (["xn--bcher-kva.example"], "xn--bcher-kva.example", True),
    (["*"], "a.example", True),
    (["*"], "8.8.8.8", True),
]


@pytest.mark.parametrize(("propagate_to", "host", "gets_labels"), NAMED)
def test_named_hosts_get_labels_too(propagate_to, host, gets_labels):
    peers = Peers(propagate_to)
    assert peers.gets_labels(host) is gets_labels
    assert peers.gets_labels("warehouse")


@pytest.mark.parametrize(("propagate_to", "host", "gets_labels"), NAMED)
def test_the_environment_names_hosts_if_the_program_does_not(propagate_to, host, gets_labels, monkeypatch):
    patterns = propagate_to if isinstance(propagate_to, list) else ["a.example"]
    monkeypatch.setenv("TRACEKIT_PROPAGATE_TO", ",".join(["other.example", *patterns, ""]))
    assert Peers().gets_labels(host) is gets_labels
    assert Peers().gets_labels("other.example")
    assert not Peers([]).gets_labels("other.example")


def test_a_function_replaces_the_default():
    asked = []
    peers = Peers(lambda host: asked.append(host) or host == "a.example")
    assert [peers.gets_labels(host) for host in ("A.EXAMPLE", "warehouse", "[::1]")] == [True, False, False]
    assert asked == ["a.example", "warehouse", "::1"]


def test_if_a_function_raises_labels_are_not_sent_and_the_error_is_logged_once(caplog):
    peers = Peers(lambda _: 1 // 0)
    assert [peers.gets_labels("localhost") for _ in range(2)] == [False, False]
    assert caplog.messages == [
        "propagate_to raised ZeroDivisionError: labels are not sent (logged once per class of error)"
    ]


@pytest.mark.parametrize("wrong", ["a.example", b"a.example", 5, [5], [None]])
def test_propagate_to_of_the_wrong_type_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="propagate_to must"):
        Peers(wrong)


WRONG = [
    ".",
    "*.",
    "*a.example",
    "a.*.example",
    "https://a.example",
    "a.example:443",
    "a.example/",
    "a b",
    "user@a.example",
    "b\u00fccher.example",
    "10.0.0.300",
    "*.10.0.0.1",
    "134744072",
]


@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_a_pattern_that_matches_no_host_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="propagate_to must hold host names in ASCII"):
        Peers([wrong])


def test_an_invalid_name_in_the_environment_is_ignored_with_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("TRACEKIT_PROPAGATE_TO", ",".join(["a.example", *WRONG, "b.example"]))
    for _ in range(2):
        peers = Peers()
    assert [peers.gets_labels(host) for host in ("a.example", "b.example", "c.example")] == [True, True, False]
    assert len(caplog.messages) == len(WRONG)
    assert caplog.messages[3] == "TRACEKIT_PROPAGATE_TO: invalid host name 'a.*.example' is ignored"


def context():
    return tracekit.SpanContext(
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00f067aa0ba902b7",
        3,
        state=tracekit.TraceState.parse("a=1"),
        labels=tracekit.Labels({"tenant": "acme"}),
        extra={"b3": "d"},
    )


def test_other_hosts_get_everything_but_labels_and_one_line_tells_how_to_change_that(caplog):
    whole = context()
    peers = Peers()
    for host in ("api.stripe.com", "api.stripe.com", "api.paypal.com", "warehouse"):
        found = peers.context_for(host, whole)
        assert found.replace(labels=whole.labels) == whole
        assert dict(found.labels) == ({"tenant": "acme"} if host == "warehouse" else {})
    assert caplog.messages == [
        f"labels are not sent to {host}, which is not one of your own hosts; to send them, add it to propagate_to= or "
        "to TRACEKIT_PROPAGATE_TO (logged once per host)"
        for host in ("api.stripe.com", "api.paypal.com")
    ]


def test_without_labels_the_context_is_unchanged_and_nothing_is_logged(caplog):
    bare = context().replace(labels=tracekit.Labels())
    assert Peers().context_for("api.stripe.com", bare) is bare
    assert caplog.messages == []


def test_any_host_name_is_logged_in_one_short_line(caplog):
    Peers().context_for("a\nb" + "x" * 5000 + ".com", context())
    assert caplog.messages[0].startswith("labels are not sent to 'a\\nbxx")
    assert len(caplog.messages[0]) < 300


def test_any_number_of_hosts_takes_bounded_memory():
    peers = Peers()
    for number in range(3_000):
        peers.gets_labels(f"{number}.example")
    peers.gets_labels("x" * 10_000)
    assert len(peers._known) <= 1024
    assert max(map(len, peers._known)) <= 255


@given(st.text())
def test_no_host_raises(host):
    Peers([]).gets_labels(host)
