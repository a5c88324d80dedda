from __future__ import annotations

import asyncio

import httpx
import pytest

from tracekit.integrations import _http


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"", ("", None)),
        (b"example.com", ("example.com", None)),
        (b"example.com:8000", ("example.com", 8000)),
        (b"example.com:", ("example.com", None)),
        (b"example.com:x", ("example.com", None)),
        (b"example.com:123456", ("example.com", None)),
        (b"example.com:65535", ("example.com", 65535)),
        (b"example.com:65536", ("example.com", None)),
        (b"example.com:0", ("example.com", None)),
        ("example.com:\u0661".encode(), ("example.com", None)),
        (b"[::1]", ("::1", None)),
        (b"[::1]:8000", ("::1", 8000)),
        (b"[::1", ("::1", None)),
        (b"user:word@example.com:8000", ("example.com", 8000)),
        (b":80", ("", 80)),
        (b"\xff\x00", ("\xff\x00", None)),
        (b"x" * 300 + b":80", ("x" * 255, None)),
        (b"user" * 100 + b":word@example.com:8000", ("example.com", 8000)),
    ],
)
def test_a_host_header_is_split_into_address_and_port(host, address):
    assert _http.parse_host(host) == address


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b", "/a/b"),
        ("/a@b", "/a@b"),
        ("/a?b#c", "/a"),
        ("/a#b?c", "/a"),
        ("//user:word@example.com/a", "//user:word@example.com/a"),  # a path: RFC 9112, section 3.2.1
        ("http://user:word@example.com/a@b?c", "/a@b"),
        ("http://user:word@example.com", "/"),
        ("http://user:word@example.com?a", "/"),
        ("user:word@example.com:80/a", "example.com:80/a"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_a_target_has_a_path(target, path):
    assert _http.path_of_target(target) == path


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


def test_an_error_of_tracing_is_logged_once_per_class_and_escaped(caplog, monkeypatch):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    _http.report(ValueError("a\nb" + "x" * 500))
    _http.report(ValueError("again"))
    _http.report(KeyError("c"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "not traced in full: ValueError: 'a\\nbxxx" in caplog.messages[0]
    assert len(caplog.messages[0]) < 200


def test_logging_an_error_of_tracing_never_raises(caplog, monkeypatch):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("mute")

    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    _http.report(Mute())
    assert "not traced in full: Mute:  (logged" in caplog.messages[0]
    monkeypatch.setattr(caplog.handler, "emit", lambda _: 1 // 0)
    _http.report(KeyError())
