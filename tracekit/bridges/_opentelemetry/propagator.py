"""``Propagator``: tracekit's configured formats as OpenTelemetry's one propagator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context.context import Context
from opentelemetry.propagators import textmap

from ... import _propagation
from ..._core.scopes import current_context
from .contexts import RemoteSpan
from .runtime import BAGGAGE_KEY, RUNTIME, SPAN_KEY, meaning_of

if TYPE_CHECKING:
    from ..._core.context import SpanContext

__all__ = ["Propagator"]


class Propagator(textmap.TextMapPropagator):
    """Reads and writes every format that ``tracekit.configure(formats=...)`` names, baggage included."""

    @property
    def fields(self) -> set[str]:
        """The names of the formats' fields."""
        return {field for format in _propagation.formats() for field in format.fields}

    def inject(
        self, carrier: Any, context: Context | None = None, setter: textmap.Setter[Any] = textmap.default_setter
    ) -> None:
        """Write *context*, or the current one, into *carrier* by *setter*."""
        found: SpanContext | None
        if context is None or context is RUNTIME.get_current():
            found = current_context()
        else:
            found = meaning_of(context).context if isinstance(context, dict) else None
        if found is None:
            return
        if setter is textmap.default_setter and type(carrier) is dict:
            _propagation.inject(carrier, found)
            return
        headers: dict[str, str] = {}
        for name, value in _propagation.inject(headers, found).items():
            setter.set(carrier, name, value)

    def extract(
        self,
        carrier: Any,
        context: Context | None = None,
        getter: textmap.Getter[Any] = textmap.default_getter,
    ) -> Context:
        """Return *context*, or an empty one, with the span context and the baggage that *carrier* holds.

        Not the current one, as in OpenTelemetry: a server that attaches the result inherits nothing of the last request.
        """
        if context is None:
            context = Context()
        try:
            found = _propagation.extract(_pairs(carrier, getter))
        except Exception:  # a getter of the program's, or a carrier that it does not know
            return context
        if found is None:
            return context
        values: dict[str, object] = dict(context)
        if found.is_valid or not found.deferred:
            values[SPAN_KEY] = RemoteSpan(found)
        if found.labels:
            earlier: Any = context.get(BAGGAGE_KEY) or {}
            values[BAGGAGE_KEY] = {**earlier, **found.labels}
        return Context(values)


def _pairs(carrier: Any, getter: textmap.Getter[Any]) -> list[tuple[str, str]]:
    """Return the formats' fields in *carrier*, asked for by name; prefixes need the list of all names."""
    formats = _propagation.formats()
    names = [field for format in formats for field in format.fields]
    prefixes = tuple([prefix for format in formats for prefix in getattr(format, "prefixes", ())])
    if prefixes:
        names += [name for name in getter.keys(carrier) or () if name.lower().startswith(prefixes)]
    pairs: list[tuple[str, str]] = []
    for name in dict.fromkeys(names):
        values = getter.get(carrier, name)
        if values:
            pairs += [(name, value) for value in ([values] if isinstance(values, str) else values)]
    return pairs
