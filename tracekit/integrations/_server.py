"""Server spans: whose child a request's span is, shared by every server integration."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from .. import ROOT, SpanContext
from .._core.records import NO_ATTRIBUTES
from .._core.span import Span
from .._propagation import extract_all
from ..cython import binding, cclass, compiled, nonecheck
from ._forced import Forced
from ._http import report
from ._redaction import MAX_TEXT

if not compiled:
    from .._carriers import extract, reads_w3c
    from .._core.span import mapping_of, start_request_span, tracer_in_use

if TYPE_CHECKING:
    from .._core.span import Root

Trust = Literal["continue", "restart", "link", "ignore"]
_CONTINUE, _LINK, _IGNORE = "continue", "link", "ignore"
_TRUST = (_CONTINUE, "restart", _LINK, _IGNORE)
NOT_TRACED = SpanContext(deferred=False)  # spans below it are not recorded, here or downstream


@binding(False)
@cclass
class Callers:
    """How far a server follows its callers; ``TraceMiddleware`` of ASGI documents the arguments.

    Raises ``TypeError`` or ``ValueError`` for invalid ones.
    """

    def __init__(self, trust: Trust, routes: Mapping[str, Trust] | None, forced_per_s: float) -> None:
        if routes is not None and not isinstance(routes, Mapping):
            raise TypeError(f"routes must be a mapping, not {type(routes).__name__}")
        for prefix in routes or ():
            if not isinstance(prefix, str):
                raise TypeError(f"routes must have str keys, not {type(prefix).__name__}")
        self._trust = _checked(trust)
        by_length = sorted((routes or {}).items(), key=lambda item: -len(item[0]))
        self._routes = [(prefix, _checked(trust)) for prefix, trust in by_length]
        self._forced = Forced(forced_per_s)

    def start(self, name: str, path: Any, headers: Any, attributes_of: Callable[..., Any], *arguments: Any) -> Span:
        """Start the server span of a request with these headers, a carrier for ``extract()``.

        ``attributes_of(*arguments)``, a dict with plain str keys or an ``Items``, is called only for a request that may
        be recorded; after the start of the span where the sampler decides by the trace id alone.
        """
        return self._start(name, path, headers, attributes_of, arguments)

    def _start(
        self, name: str, path: Any, headers: Any, attributes_of: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Span:
        return self._start_described(name, path, headers, _called, (attributes_of, arguments))

    @nonecheck(True)
    def _start_described(
        self, name: str, path: Any, headers: Any, attributes_of: Callable[[Any], Any], request: Any
    ) -> Span:
        """Do the same as ``start()``; *attributes_of* is a function of C."""
        parent: SpanContext | Root = ROOT
        links: tuple[SpanContext, ...] = ()
        continued: SpanContext | None = None
        trust = self._trust_of(path) if self._routes else self._trust
        caller: SpanContext | None = None
        others: tuple[SpanContext, ...] = ()
        if trust is not _IGNORE:
            try:
                if reads_w3c():
                    caller = extract(headers)
                else:
                    caller, others = extract_all(headers)
            except Exception:  # no headers, or a custom format that raises
                pass
        if caller is not None:
            if trust is _CONTINUE:
                parent = continued = caller
                links = others
            else:
                links = (caller, *others) if caller.is_valid else others
                if trust is _LINK and caller.labels:
                    parent = SpanContext(labels=caller.labels)
        attributes = None
        tracer = tracer_in_use()
        is_late = False
        if tracer.recording or tracer.records_all:
            may_be_kept = tracer.recording and (continued is None or continued.sampled or continued.deferred)
            # Ratio and Off decide by the trace id alone: attributes of a trace that is not kept are never built.
            is_late = (
                tracer.threshold > 0 and tracer.sampler is None and tracer.hooks is None and not tracer.records_all
            )
            if (may_be_kept and not is_late) or tracer.records_all:
                attributes = attributes_of(request)
            if tracer.threshold or tracer.sampler is not None:  # some traces are not kept
                self._forced.count(tracer)
                if continued is not None and may_be_kept:
                    seen = NO_ATTRIBUTES if tracer.sampler is None else mapping_of(attributes)
                    parent = self._forced.admit(tracer, continued, name, seen)
        span = start_request_span(tracer, name, "server", attributes, links, parent)
        if is_late and span._is_recorded:
            try:
                span._put_all(attributes_of(request))
            except Exception as error:  # the span has started, and stays
                report(error)
        return span

    def _trust_of(self, path: Any) -> str:
        if not isinstance(path, str):
            path = ""
        return next((trust for prefix, trust in self._routes if _is_below(path, prefix)), self._trust)


def _called(call: Any) -> Any:
    """Call a function of Python's; *call* is a pair of the function and a tuple of its arguments."""
    function, arguments = call
    return function(*arguments)


def _is_below(path: str, prefix: str) -> bool:
    # Whole segments: "/internal" must not match "/internals".
    return path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] in ("", "/"))


def excluded(exclude: Iterable[str | re.Pattern[str]]) -> Callable[[Any], bool] | None:
    """Return a predicate of paths from *exclude*, prefixes of whole segments and patterns; None if it is empty.

    Raises ``TypeError`` or ``ValueError`` if it holds anything else.
    """
    if isinstance(exclude, str | bytes | re.Pattern) or not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must be an iterable of paths and patterns, not {type(exclude).__name__}")
    tests: list[Callable[[str], object]] = []
    for path in list(exclude):  # a method of a str of the program may change a dict or a set
        if isinstance(path, re.Pattern) and isinstance(path.pattern, str):
            tests.append(path.search)
        elif not isinstance(path, str):
            raise TypeError(f"exclude must hold str and re.Pattern[str], not {type(path).__name__}")
        elif not path.startswith("/"):
            raise ValueError(f"exclude must hold paths that start with a slash: {path[:64]!a}")
        else:
            tests.append(functools.partial(_is_below, prefix=path))
    if not tests:
        return None

    def is_excluded(path: Any) -> bool:
        # The bound on the length bounds the time that a regular expression can take.
        return isinstance(path, str) and len(path) <= MAX_TEXT and any(test(path) for test in tests)

    return is_excluded


def _checked(trust: str) -> str:
    if not isinstance(trust, str):
        raise TypeError(f"trust must be str, not {type(trust).__name__}")
    if trust not in _TRUST:
        raise ValueError(f"trust must be one of {', '.join(_TRUST)}: {trust[:64]!a}")
    return _TRUST[_TRUST.index(trust)]  # compared by identity
