"""``Propagator``: tracekit's configured formats as OpenTelemetry's one propagator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context.context import Context
from opentelemetry.propagators import textmap

from ... import _propagation
from ..._core.scopes import current_context
from ...cython import binding, cclass, compiled, final
from .runtime import BAGGAGE_KEY, SPAN_KEY

if not compiled:
    from ..._core.guard import is_a
    from ..._core.interpreter import DEFERRED
    from .contexts import remote_span
    from .runtime import put_value, scope_for, value_of

if TYPE_CHECKING:
    from ..._core.context import SpanContext

_GETTER: Final = textmap.default_getter
_SETTER: Final = textmap.default_setter
_EMPTY: Final = Context()


@final
@binding(False)
@cclass
class Propagator:
    """Reads and writes every format that ``tracekit.configure(formats=...)`` names, baggage included."""

    @property
    def fields(self) -> set[str]:
        """The names of the formats' fields."""
        return set(_propagation.names()[0])

    def inject(
        self, carrier: Any, context: Context | None = None, setter: textmap.Setter[Any] = textmap.default_setter
    ) -> None:
        """Write *context*, or the current one, into *carrier* by *setter*."""
        if context is None:
            found = current_context()
        elif is_a(context, dict):
            found = scope_for(context)._context
        else:
            return
        if found is None:
            return
        if setter is _SETTER and type(carrier) is dict:
            _propagation.inject(carrier, found)
            return
        headers: dict[str, str] = {}
        for name, value in _propagation.inject(headers, found).items():
            setter.set(carrier, name, value)

    def extract(
        self, carrier: Any, context: Context | None = None, getter: textmap.Getter[Any] = textmap.default_getter
    ) -> Context:
        """Return *context*, or an empty one, with the span context and the baggage that *carrier* holds.

        Not the current one, as in OpenTelemetry: a server that attaches the result inherits nothing of the last request.
        """
        base: Any = context if is_a(context, dict) else _EMPTY
        try:
            if getter is _GETTER and type(carrier) is dict:
                found = _propagation.extract(carrier)
            else:
                found = _propagation.extract(_pairs(carrier, getter))
        except Exception:  # a getter of the program's, or a carrier that it does not know
            return base  # type: ignore[no-any-return]
        return base if found is None else _with(base, found)


textmap.TextMapPropagator.register(Propagator)


def _with(context: Any, found: SpanContext) -> Context:
    """Return *context* with *found* as its span and its labels as baggage beside those that are there."""
    made = Context(context) if context else Context()
    if found._is_valid() or not found._bits & DEFERRED:
        put_value(made, SPAN_KEY, remote_span(found))
    if found._labels is not None:
        baggage: dict[str, object] = {}
        earlier = value_of(context, BAGGAGE_KEY)
        if earlier:
            baggage.update(earlier)
        baggage.update(found._labels)
        put_value(made, BAGGAGE_KEY, baggage)
    return made


def _pairs(carrier: Any, getter: textmap.Getter[Any]) -> list[tuple[str, str]]:
    """Return the formats' fields in *carrier*, asked for by name; prefixes need the list of all names."""
    names, prefixes = _propagation.names()
    if prefixes:
        more = [name for name in getter.keys(carrier) or () if name.lower().startswith(prefixes)]
        names = tuple(dict.fromkeys([*names, *more]))
    pairs: list[tuple[str, str]] = []
    for name in names:
        values = getter.get(carrier, name)
        if not values:
            continue
        if isinstance(values, str):
            pairs.append((name, values))
        else:
            pairs.extend([(name, value) for value in values])
    return pairs
