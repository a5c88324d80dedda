"""The class that ``install(replace_sdk=True)`` puts in place of ``opentelemetry.sdk.trace.Span``.

Programs and tests replace methods of that class, ``Span.end`` for instance. The methods of a compiled class cannot be
replaced, and asking at each call whether they were would slow every span. So this class tells when its attributes change:
from then on new spans are made of it, and when the changes are undone, of ``OtelSpan`` again.
"""

from __future__ import annotations

import sys
from typing import Any

from .spans import OtelSpan, use_class


class _Watched(type):
    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _follow()

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        _follow()

    def __getattr__(cls, name: str) -> Any:
        return getattr(_sdks(), name)  # the SDK calls private functions of its class, by the name of this one

    # Spans name the SDK's class as theirs, and the unsampled ones another.

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _sdks()) if cls is Span else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return super().__subclasscheck__(subclass) or (cls is Span and issubclass(subclass, _sdks()))


def _sdks() -> Any:
    return getattr(sys.modules.get("opentelemetry.sdk.trace"), "_Span", ())


class Span(OtelSpan, metaclass=_Watched):
    """A span of the API that calls its methods even where tracekit need not: the program may have replaced them."""

    __slots__ = ()


_ITS_OWN = frozenset(vars(Span))


def _follow() -> None:
    use_class(Span if vars(Span).keys() - _ITS_OWN else None)
