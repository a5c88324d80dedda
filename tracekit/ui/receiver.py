"""The OTLP/HTTP receiver: an ASGI application that answers after the spans are in the store.

Spec: https://opentelemetry.io/docs/specs/otlp/#otlphttp - 400 for a malformed request, which the sender drops; 413 for
one that is too large; 429 and 503 with ``Retry-After`` for one that the sender shall repeat. An error is a
``google.rpc.Status``, a response with rejected spans a ``partial_success``, in the encoding of the request.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from ..debug._access import headers_by_name, is_local_origin, names_loopback
from ..exporters._otlp.messages import RESPONSE, STATUS, encode_message
from ..exporters.sqlite import StoreError
from .rows import Malformed
from .store import MAX_REQUEST_BYTES, Busy, TooLarge

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from starlette.types import Receive, Scope, Send

    from ..exporters._otlp.messages import Schema
    from .store import Signal, SpanStore

_BODY_S: Final = 30.0
_TYPES: Final = {"application/x-protobuf": False, "application/protobuf": False, "application/json": True}
# The codes of google.rpc.Status, by the status of HTTP.
_CODES: Final = {400: 3, 403: 7, 404: 12, 405: 12, 408: 4, 413: 8, 415: 3, 429: 8, 503: 14}
_PATHS: Final[dict[str, Signal]] = {"/v1/traces": "traces", "/v1/logs": "logs"}
_REJECTED_NAMES: Final = {"traces": "rejectedSpans", "logs": "rejectedLogRecords"}
_REJECTED_TEXT: Final = "spans without a valid trace id and span id, or that the store cannot hold"


class _Failure(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Receiver:
    """Accept ``POST /v1/traces`` and ``/v1/logs``; *executor* decodes and stores one request at a time."""

    def __init__(self, store: SpanStore, executor: Executor, page: str = "") -> None:
        self._store = store
        self._executor = executor
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = headers_by_name(scope["headers"])
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_json = _TYPES.get(content_type)
        origin = headers.get("origin")
        extra: list[tuple[bytes, bytes]] = []
        signal = _PATHS.get(scope["path"])
        try:
            if not names_loopback(headers.get("host", "")):
                raise _Failure(403, "Host is not a name of this machine: send to localhost")
            if origin is not None:
                # A program in a local page may send its spans; a page from elsewhere may not.
                if not is_local_origin(origin):
                    raise _Failure(403, "the request comes from another site")
                # Credentials: sendBeacon() always allows them, so browsers require the answer to (opentelemetry-js, 3062).
                extra = [
                    (b"access-control-allow-origin", origin.encode("latin-1")),
                    (b"access-control-allow-credentials", b"true"),
                    (b"vary", b"Origin"),
                ]
                if scope["method"] == "OPTIONS":
                    extra.append((b"access-control-allow-headers", b"content-type, content-encoding"))
                    await _answer(send, 204, b"", b"", extra)
                    return
            if scope["path"] == "/" and scope["method"] == "GET":
                text = f"tracekit ui receives OTLP here: POST /v1/traces, /v1/logs. The pages: {self._page}\n"
                await _answer(send, 200, b"text/plain; charset=utf-8", text.encode(), extra)
                return
            if signal is None:
                raise _Failure(404, "tracekit ui stores traces and logs: POST /v1/traces, /v1/logs")
            rejected = await self._export(signal, scope, receive, headers, is_json)
        except _Failure as failure:
            if signal is not None:
                self._store.failed()
            if failure.status in (429, 503):
                extra.append((b"retry-after", b"1"))
            if failure.status != 429:
                extra.append((b"connection", b"close"))  # the rest of the body has not been read
            answer = {"code": _CODES[failure.status], "message": str(failure)}
            await _answer(send, failure.status, *_encoded(answer, STATUS, is_json=is_json is not False), extra)
            return
        answer = response_of(rejected, signal)
        await _answer(send, 200, *_encoded(answer, RESPONSE, is_json=is_json is True), extra)

    async def _export(
        self, signal: Signal, scope: Scope, receive: Receive, headers: dict[str, str], is_json: bool | None
    ) -> int:
        if scope["method"] != "POST":
            raise _Failure(405, "POST is required")
        if is_json is None:
            raise _Failure(415, f"Content-Type must be one of {', '.join(_TYPES)}")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise _Failure(415, "Content-Encoding must be gzip or absent")
        length = headers.get("content-length", "")
        # int() raises for more than 4300 digits, and for "²", which isdigit() accepts.
        if length.isdecimal() and (len(length) > 20 or int(length) > MAX_REQUEST_BYTES):
            raise _too_large()
        held = 0
        try:
            parts: list[bytes] = []
            try:
                async with asyncio.timeout(_BODY_S):
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise _Failure(400, "the connection was closed before the end of the body")
                        part = message.get("body", b"")
                        self._store.reserve(len(part))
                        held += len(part)
                        if held > MAX_REQUEST_BYTES:
                            raise _too_large()
                        parts.append(part)
                        if not message.get("more_body"):
                            break
            except TimeoutError:
                raise _Failure(408, f"the body did not arrive within {_BODY_S:.0f} s") from None
            body = b"".join(parts)
            loop = asyncio.get_running_loop()
            is_gzip = encoding == "gzip"
            return await loop.run_in_executor(
                self._executor, lambda: self._store.put(body, signal, is_json=is_json, is_gzip=is_gzip)
            )
        except Busy:
            raise _Failure(429, "too many requests wait to be stored") from None
        except Malformed as error:
            raise _Failure(400, f"cannot decode the request: {error}") from None
        except TooLarge:
            raise _too_large() from None
        except StoreError as error:
            raise _Failure(503, str(error)) from None
        finally:
            self._store.release(held)


def _too_large() -> _Failure:
    return _Failure(413, f"a request may have {MAX_REQUEST_BYTES} bytes: export in smaller batches")


async def _answer(send: Send, status: int, kind: bytes, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"x-content-type-options", b"nosniff"), *extra]
    if kind:
        headers.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _encoded(message: dict[str, Any], schema: Schema, *, is_json: bool) -> tuple[bytes, bytes]:
    """Return the content type and the body of *message*."""
    if is_json:
        return b"application/json", json.dumps(message).encode()
    return b"application/x-protobuf", encode_message(message, schema)


def response_of(rejected: int, signal: Signal) -> dict[str, Any]:
    """Return the response to a request of which *rejected* spans or records were not stored, in OTLP's JSON mapping."""
    if not rejected:
        return {}
    return {"partialSuccess": {_REJECTED_NAMES[signal]: str(rejected), "errorMessage": _REJECTED_TEXT}}
