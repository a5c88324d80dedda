"""Captured headers and the program's hooks: the options of server spans that are off by default.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ (``http.request.header.<key>``)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ._http import report
from ._redaction import MAX_TEXT, REDACTED

if TYPE_CHECKING:
    from .. import Span
    from ._redaction import Redaction

Hook = Callable[..., object]

_MAX_HEADERS: Final = 256  # headers of a message that are looked at
_MAX_VALUES: Final = 8  # values kept of one header


class Extras:
    """Write captured headers to spans and call the hooks. Nothing here raises: errors are reported once."""

    __slots__ = ("_on_request", "_on_response", "_redaction", "_request_names", "_response_names")

    def __init__(
        self,
        redaction: Redaction,
        request_names: dict[str, str],
        response_names: dict[str, str],
        on_request: Hook | None,
        on_response: Hook | None,
    ) -> None:
        self._redaction = redaction
        self._request_names = request_names
        self._response_names = response_names
        self._on_request = on_request
        self._on_response = on_response

    def request(self, span: Span, headers: Any, *arguments: Any) -> None:
        """Handle the start of a request with *headers*: call ``on_request(span, *arguments)``."""
        self._handle(span, self._request_names, headers, self._on_request, arguments)

    def response(self, span: Span, headers: Any, *arguments: Any) -> None:
        """Handle the start of a response with *headers*: call ``on_response(span, *arguments)``."""
        self._handle(span, self._response_names, headers, self._on_response, arguments)

    def _handle(
        self, span: Span, names: dict[str, str], headers: Any, hook: Hook | None, arguments: tuple[Any, ...]
    ) -> None:
        try:
            # Another iterable may be one that can be read once, by the server.
            if names and isinstance(headers, list | tuple):
                self._capture(span, names, headers)
            if hook is not None:
                hook(span, *arguments)
        except Exception as error:
            report(error)

    def _capture(self, span: Span, names: dict[str, str], headers: Iterable[Any]) -> None:
        found: dict[str, list[str]] = {}
        for name, value in islice(headers, _MAX_HEADERS):
            if len(name) > MAX_TEXT:
                continue
            key = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
            if key in names:
                values = found.setdefault(names[key], [])
                if len(values) < _MAX_VALUES:
                    text = value[:MAX_TEXT]
                    text = text.decode("latin-1") if isinstance(text, bytes) else text
                    values.append(REDACTED if self._redaction.is_secret(key) else text)
        span.set_attributes(found)


def extras(
    redaction: Redaction,
    capture_request_headers: Iterable[str],
    capture_response_headers: Iterable[str],
    on_request: Hook | None,
    on_response: Hook | None,
) -> Extras | None:
    """Return the ``Extras`` for these options; None if all are off.

    Raises ``TypeError`` if the names are no iterable of str, or if a hook is not a plain function.
    """
    request_names = _names("capture_request_headers", "request", capture_request_headers)
    response_names = _names("capture_response_headers", "response", capture_response_headers)
    for option, hook in (("on_request", on_request), ("on_response", on_response)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{option} must be a function, not {type(hook).__name__}")
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
            raise TypeError(f"{option} must be a plain function: a coroutine function cannot be called here")
    if not (request_names or response_names or on_request or on_response):
        return None
    return Extras(redaction, request_names, response_names, on_request, on_response)


def _names(option: str, direction: str, names: Iterable[str]) -> dict[str, str]:
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise TypeError(f"{option} must be an iterable of header names, not {type(names).__name__}")
    found = {}
    for name in list(names):  # a method of a name may change a dict or a set
        if not isinstance(name, str):
            raise TypeError(f"{option} must hold str, not {type(name).__name__}")
        found[name.lower()] = f"http.{direction}.header.{name.lower()}"
    return found
