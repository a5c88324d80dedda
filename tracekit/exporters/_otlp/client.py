"""The connection to a collector for one signal: its settings, and the transport for its protocol."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, TypeVar

from ..._core.checks import check_above_0
from ..._core.errors import clip
from ..._distribution import install_hint
from ..._environment import say
from ..._export.notices import Notices, describe
from ..._export.threads import Done
from .answers import Answer, backoff_s, report_rejected
from .requests import MAX_REQUEST_BYTES, pack
from .settings import DEFAULTS, PATHS, check_headers, endpoint_of, otlp_settings, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_Path: TypeAlias = "str | os.PathLike[str]"


class Collector(TypedDict, total=False):
    """The arguments about a collector, which ``OTLPExporter`` documents; None stands for the setting of *environ*."""

    environ: Mapping[str, str] | None
    headers: Mapping[str, str] | None
    timeout_s: float | None
    compression: str | None
    certificate: _Path | None
    client_certificate: _Path | None
    client_key: _Path | None
    protocol: str | None
    insecure: bool | None


_PROTOCOLS = ("http/protobuf", "http/json", "grpc")


class _Transport(Protocol):
    url: str

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer: ...
    def close(self) -> None: ...


class Client:
    """Sends encoded requests of one *signal* to a collector. Not shared by processes: call ``adopted()`` before each use.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``ModuleNotFoundError`` where a library is missing.
    """

    def __init__(self, signal: str, endpoint: str | None, options: Collector, spool: _Path | None = None) -> None:
        if unknown := options.keys() - Collector.__annotations__.keys():
            raise TypeError(f"there is no argument {min(unknown)[:64]!a}; the others are those of OTLPExporter")
        given: dict[str, Any] = {**options, "spool": spool}
        found, wrong = otlp_settings(given.pop("environ", None), given.get("protocol"), signal)
        say(wrong)
        settings = {**DEFAULTS, **found, **{key: value for key, value in given.items() if value is not None}}
        self.signal = signal
        self.protocol = _one_of("protocol", settings["protocol"], _PROTOCOLS)
        self.compression = _one_of("compression", settings["compression"], ("none", "gzip"))
        check_above_0("timeout_s", settings["timeout_s"], 3600)
        self.timeout_s = float(settings["timeout_s"])
        self._insecure = bool(settings["insecure"])
        self._headers = _checked_headers(settings.get("headers") or {}, self.protocol)
        self._files = tuple(None if settings.get(key) is None else os.fspath(settings[key]) for key in PATHS)
        self._endpoint = _checked_endpoint(endpoint or found.get("endpoint"), self.protocol, signal)
        self.endpoint = without_secrets(self._endpoint)
        self.content_type = "application/json" if self.protocol == "http/json" else "application/x-protobuf"
        # The gRPC library compresses messages itself.
        self.content_encoding = "gzip" if self.compression == "gzip" and self.protocol != "grpc" else ""
        self._make_transport = _transports(self.protocol)
        self.spool = None if settings.get("spool") is None else os.fspath(settings["spool"])
        self.notices = Notices()
        self.begin()

    def begin(self) -> None:
        """Reset state that a fork must not share: connections and locks."""
        self._pid = os.getpid()
        self._transport: _Transport | None = None
        self._read: list[object] = [None for _ in self._files]  # stamps of the files that the transport has read
        self._connecting = threading.RLock()
        self.is_late = Done()  # set: no retry is waited for. A signal handler may set it, also while it is being set

    def adopted(self) -> bool:
        """Return whether this is a new process; its state was reset then."""
        if self._pid == os.getpid():
            return False
        # Kept alive: its finalizer would close the parent's sockets, or wait for threads of the parent.
        self._inherited = self._transport
        self.begin()
        return True

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float | None = None) -> Answer:
        """Send *body* once; return the collector's answer, or one that describes the failure. Never raises."""
        try:
            transport = self._current_transport()
            return transport.send(body, content_type, content_encoding, timeout_s or self.timeout_s)
        except OSError as error:  # from a certificate file
            where = f"{error.filename} cannot be read" if error.filename else f"{self.endpoint} cannot be reached"
            return Answer("later", f"{where}: {error.strerror or error}", is_lasting=True)
        except ValueError as error:  # from a setting: a key with a password, a proxy of another kind
            return Answer("later", f"{self.endpoint}: {error}", is_lasting=True)
        except Exception as error:  # an error in a library must not lose the batches behind this one
            return Answer("later", f"{self.endpoint}: {describe(error)}")

    def deliver(self, items: Sequence[T], encode: Callable[[Sequence[T]], bytes], deadline: float, thing: str) -> int:
        """Send *items* in requests that the collector accepts, retrying until *deadline* on the monotonic clock.

        *encode* makes the body of a request. Returns the number of lost items, *thing* in the log; never raises.
        """
        waiting, lost, failures = [items], 0, 0
        is_late = self.is_late  # a shutdown that this outlasts sets it, and begins anew
        while waiting:
            part = waiting.pop()
            try:
                plain = encode(part)
                if len(plain) > MAX_REQUEST_BYTES and len(part) > 1:
                    waiting += _halves(part)
                    continue
                body = pack(plain, self.content_encoding)
            except Exception as error:
                answer = Answer("refused", f"it cannot be encoded: {describe(error)}", is_too_large=True)
            else:
                left_s = max(0.1, deadline - time.monotonic())
                answer = self.send(body, self.content_type, self.content_encoding, min(self.timeout_s, left_s))
            if answer.outcome == "taken":
                lost += report_rejected(self.notices, answer, len(part), thing)
                continue
            if answer.is_too_large and len(part) > 1:
                waiting += _halves(part)
                continue
            if answer.outcome == "later" and not answer.is_lasting:
                pause_s = backoff_s(failures, at_least_s=answer.after_s, left_s=deadline - time.monotonic())
                failures += 1
                if time.monotonic() + pause_s < deadline and not is_late.wait(pause_s):
                    waiting.append(part)
                    continue
            lost += len(part)
            message = "%d %s lost: %s (reported once per cause)"
            self.notices.say("error", answer.reason[:80], message, len(part), thing, answer.reason)
        return lost

    def _current_transport(self) -> _Transport:
        """Return the transport, a new one where certificate files have changed; the earlier one closes with its last use."""
        with self._connecting:
            files = [_stamp(path) for path in self._files]
            if self._transport is None:
                self._transport = self._connect()
                self._read = files
            elif files != self._read:
                with contextlib.suppress(OSError, ValueError):  # they are being replaced: the next request looks again
                    self._transport = self._connect()
                    self._read = files
            return self._transport

    def _connect(self) -> _Transport:
        for path in self._files:
            if path is not None:
                with open(path, "rb"):  # the library's own error does not name the file
                    pass
        options = {"compression": self.compression, "insecure": self._insecure} if self.protocol == "grpc" else {}
        return self._make_transport(self._endpoint, self._headers, self._files, signal=self.signal, **options)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _stamp(path: str | None) -> object:
    """Return a value that changes with the content of the file *path*; None if there is none."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _halves(items: Sequence[T]) -> list[Sequence[T]]:
    """Return both halves of *items*, the first one last."""
    half = len(items) // 2
    return [items[half:], items[:half]]


def _transports(protocol: str) -> Callable[..., _Transport]:
    """Return the transport class. Called by the constructor, which therefore reports a missing library."""
    if protocol != "grpc":
        from .http import HttpTransport

        return HttpTransport
    try:
        from .grpc import GrpcTransport
    except ModuleNotFoundError as error:
        message = f"OTLP with protocol={protocol!r} needs {error.name}: {install_hint('otlp-grpc')}"
        raise ModuleNotFoundError(message, name=error.name) from error
    return GrpcTransport


def _one_of(parameter: str, value: Any, words: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{parameter} must be str, not {type(value).__name__}")
    if value not in words:
        raise ValueError(f"{parameter} must be one of {', '.join(words)}: {value[:64]!a}")
    return value


def _checked_headers(headers: Any, protocol: str) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    items = list(headers.items())
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in items):
        raise TypeError("headers must hold str names and values")
    try:
        return check_headers(items, protocol)
    except ValueError as error:
        raise ValueError(f"headers {error}") from None


def _checked_endpoint(endpoint: Any, protocol: str, signal: str) -> str:
    if endpoint is not None and not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be str, not {type(endpoint).__name__}")
    try:
        return endpoint_of(endpoint, protocol, signal)
    except ValueError as error:
        raise ValueError(f"endpoint {error}: {clip(without_secrets(endpoint or ''))}") from None
