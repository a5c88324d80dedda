from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.integrations import _http


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        ("", ""),
        ("a", "a"),
        ("a=1&b=2", "a=1&b=2"),
        ("sig=s3cr3t", "sig=REDACTED"),
        ("color=blue&sig=s3cr3t&x=1", "color=blue&sig=REDACTED&x=1"),
        ("Signature=s3cr3t&AWSAccessKeyId=s3cr3t", "Signature=REDACTED&AWSAccessKeyId=REDACTED"),
        ("X-Goog-Signature=s3cr3t&X-Goog-Credential=s3cr3t", "X-Goog-Signature=REDACTED&X-Goog-Credential=REDACTED"),
        ("X-Amz-Signature=s3cr3t", "X-Amz-Signature=REDACTED"),
        ("X-Amz-Credential=s3cr3t", "X-Amz-Credential=REDACTED"),
        ("X-Amz-Security-Token=s3cr3t", "X-Amz-Security-Token=REDACTED"),
        ("access_token=s3cr3t&id_token=s3cr3t&token=s3cr3t", "access_token=REDACTED&id_token=REDACTED&token=REDACTED"),
        (
            "api_key=s3cr3t&client_secret=s3cr3t&Password=s3cr3t",
            "api_key=REDACTED&client_secret=REDACTED&Password=REDACTED",
        ),
        ("SIG=s3cr3t", "SIG=REDACTED"),
        ("s%69g=s3cr3t", "s%69g=REDACTED"),
        ("a=1;sig=s3cr3t;b=2", "a=1;sig=REDACTED;b=2"),
        ("sig=s3cr3t=s3cr3t", "sig=REDACTED"),
        ("sig=&a=1", "sig=&a=1"),
        ("sig&a=1", "sig&a=1"),
        ("design=1&tokens=2&authors=3", "design=1&tokens=2&authors=3"),
        ("%ff=1&=2&&&", "%ff=1&=2&&&"),
        ("a=" + "x" * 2000, "a=" + "x" * 1022),
        ("a" * 1022 + "&sig=s3cr3t", "a" * 1022 + "&s"),
    ],
)
def test_signatures_and_credentials_are_redacted(query, redacted):
    assert _http.redact_query(query) == redacted


@given(st.text(max_size=40), st.sampled_from(["&", ";"]), st.text("abcdef", min_size=1))
def test_whatever_stands_before_a_secret_it_does_not_get_through(before, separator, secret):
    assert _http.redact_query(f"{before}{separator}sig=<{secret}>").endswith(f"{separator}sig=REDACTED")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"", ("", None)),
        (b"example.com", ("example.com", None)),
        (b"example.com:8000", ("example.com", 8000)),
        (b"example.com:", ("example.com", None)),
        (b"example.com:x", ("example.com", None)),
        (b"example.com:123456", ("example.com", None)),
        ("example.com:\u0661".encode(), ("example.com", None)),
        (b"[::1]", ("::1", None)),
        (b"[::1]:8000", ("::1", 8000)),
        (b"[::1", ("::1", None)),
        (b"user:word@example.com:8000", ("example.com", 8000)),
        (b":80", ("", 80)),
        (b"\xff\x00", ("\xff\x00", None)),
        (b"x" * 300 + b":80", ("x" * 255, None)),
    ],
)
def test_a_host_header_is_split_into_address_and_port(host, address):
    assert _http.parse_host(host) == address


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (httpx.ReadTimeout(""), "httpx.ReadTimeout"),
        (asyncio.QueueFull(), "asyncio.queues.QueueFull"),
    ],
)
def test_an_error_is_named_after_its_class(error, name):
    assert _http.error_type(error) == name


def test_what_keeps_requests_from_being_traced_is_said_once_per_kind_of_error_and_escaped(caplog, monkeypatch):
    monkeypatch.setattr(_http, "_reported", set())
    _http.report(ValueError("a\nb" + "x" * 500))
    _http.report(ValueError("again"))
    _http.report(KeyError("c"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "not traced: ValueError: 'a\\nbxxx" in caplog.messages[0]
    assert len(caplog.messages[0]) < 200


@pytest.mark.parametrize("key", sorted({*_http._SECRETS, *_http._SECRET_ENDINGS}))
def test_no_query_with_a_secret_is_done_with_at_once(key):
    assert _http.redact_query(f"page=2&{key.upper()}=x") == f"page=2&{key.upper()}=REDACTED"
    assert _http.redact_query(f"{key[:-1]}%{ord(key[-1]):02x}=x").endswith("=REDACTED")
