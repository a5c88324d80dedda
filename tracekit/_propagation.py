"""Several formats at once: called by ``extract()`` and ``inject()`` if more than the W3C formats are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._carriers import extract as extract
from ._carriers import inject as inject
from ._carriers import set_formats
from ._core.codecs import Sieve
from ._core.context import SpanContext, ids_of, make_context
from ._core.errors import FormatError, clip
from ._core.misuse import misused
from .wire.w3c import BAGGAGE, TRACECONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .wire import Format

DEFAULT_FORMATS: Sequence[Format] = (TRACECONTEXT, BAGGAGE)
_formats: Sequence[Format] = DEFAULT_FORMATS
_sieve: Sieve | None = None

_VARIABLES = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")  # of the default formats
_DEFERRED = 0x100
# The names in OTEL_PROPAGATORS, as OpenTelemetry spells them where it has them.
_NAMES = {
    "tracecontext": ("w3c", "TRACECONTEXT"),
    "baggage": ("w3c", "BAGGAGE"),
    "b3": ("b3", "SINGLE"),
    "b3multi": ("b3", "MULTI"),
    "jaeger": ("jaeger", "JAEGER"),
    "xray": ("xray", "XRAY"),
    "ottrace": ("ottrace", "OTTRACE"),
    "datadog": ("datadog", "DATADOG"),
    "cloudtrace": ("cloudtrace", "CLOUDTRACE"),
}


def _names_of(formats: Sequence[Format]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    fields = dict.fromkeys([field for format in formats for field in format.fields])
    return tuple(fields), tuple([prefix for format in formats for prefix in getattr(format, "prefixes", ())])


_names = _names_of(DEFAULT_FORMATS)


def names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the fields of the formats in use, and the prefixes of further ones."""
    return _names


def formats() -> Sequence[Format]:
    """Return the formats in use."""
    return _formats


def check_fields(format: Format) -> None:
    """Raise TypeError or ValueError, with the format's name, for invalid ``fields`` or ``prefixes``."""
    prefixes = getattr(format, "prefixes", ())
    try:
        for parameter, fields in (("fields", format.fields), ("prefixes", prefixes)):
            if not isinstance(fields, tuple):
                raise TypeError(f"{parameter} must be a tuple, not {type(fields).__name__}")
        Sieve(format.fields, prefixes)
    except (TypeError, ValueError) as error:
        name = getattr(format, "name", type(format).__name__)
        raise type(error)(f"format {clip(name)}: {error}") from None


def use_formats(formats: Sequence[Format]) -> None:
    """Read and write *formats*, in this order, from now on."""
    global _formats, _names, _sieve
    _formats, _names = formats, _names_of(formats)
    if tuple(formats) == DEFAULT_FORMATS:
        _sieve = None
        set_formats()  # extract() and inject() read and write these two themselves
    elif len(formats) == 1 and _is_built_in(formats[0]) and not getattr(formats[0], "prefixes", ()):
        _sieve = None
        set_formats(None, formats[0].read, formats[0].write)  # no other format to combine it with
    else:
        _sieve = Sieve(*_names)
        set_formats(_sieve, _read, _write)


def _is_built_in(format: Format) -> bool:
    """Return whether *format* is one of tracekit's, which read and write carriers of every kind."""
    return type(format).__module__.startswith(f"{__package__}.wire.")


def formats_named(names: str) -> tuple[list[Format], list[str]]:
    """Return the formats in a value of ``OTEL_PROPAGATORS``, in its order, and the unknown names in it."""
    import importlib  # imports only the modules of the named formats

    found: list[Format] = []
    unknown = []
    for name in dict.fromkeys([name.strip().lower() for name in names.split(",")]):
        if name in _NAMES:
            module, constant = _NAMES[name]
            found.append(getattr(importlib.import_module(f".wire.{module}", __package__), constant))
        elif name not in ("", "none"):
            unknown.append(name)
    return found, unknown


def names_of_formats() -> list[str]:
    """Return the names that ``formats_named()`` knows."""
    return sorted(_NAMES)


def extract_all(carrier: Any) -> tuple[SpanContext | None, tuple[SpanContext, ...]]:
    """Return the context that ``extract()`` returns, and a context for each other trace in the carrier.

    For middleware, which links the server span to the latter::

        parent, others = tracekit.extract_all(request.headers)
        with tracekit.span("request", kind="server", parent=parent or tracekit.ROOT, links=others):
            ...

    Accepts the same carriers as ``extract()``. Only several configured formats can name several traces.
    """
    if _sieve is None:
        return extract(carrier), ()
    try:
        fields = _sieve.sift(carrier)
        return (None, ()) if fields is None else _read_all(fields)
    except Exception as error:  # a custom carrier or format
        misused(error)
        return None, ()


def _read_all(fields: Mapping[str, str | list[str]]) -> tuple[SpanContext | None, tuple[SpanContext, ...]]:
    found: SpanContext | None = None
    links: list[SpanContext] = []
    for format in _formats:
        try:
            context = format.read(fields)
        except FormatError:
            continue
        except Exception as error:  # a custom format: the others are still read
            misused(error)
            continue
        if context is None or found is None:
            found = found or context
        elif _trace(context) and _trace(found) and _trace(context) != _trace(found):
            if context.is_valid and all(context.id != link.id for link in links):
                links.append(context)
        else:
            found = _merge(found, context)
    return found, tuple(links)


def _trace(context: SpanContext) -> int:
    return ids_of(context)[0]


def _merge(first: SpanContext, other: SpanContext) -> SpanContext:
    """Return *first* completed by *other*, from another format and of the same trace or without a trace id."""
    ids = other if ids_of(first) == (0, 0) or (other.is_valid and not first.is_valid) else first
    decided = other if first.deferred else first
    flags = (ids.flags & ~1) | (decided.flags & 1) | (_DEFERRED if decided.deferred else 0)
    labels = first.labels.merge(other.labels) if other.labels else first.labels
    state = str(first.state) or str(other.state)
    extra = {**other.extra, **first.extra}
    return make_context(ids.id, flags, state, labels or None, ids.is_remote, extra or None)


def _read(fields: Mapping[str, str | list[str]]) -> SpanContext | None:
    return _read_all(fields)[0]


def _write(context: SpanContext, carrier: Any) -> None:
    for format in _formats:
        try:
            if hasattr(carrier, "items") or _is_built_in(format):
                format.write(context, carrier)
            else:
                fields: dict[str, str | None] = {}
                format.write(context, fields)
                Sieve(format.fields, getattr(format, "prefixes", ())).put(carrier, fields)
        except Exception as error:  # a custom format, or a carrier that cannot be written to
            misused(error)


def extract_environ(environ: Mapping[str, str]) -> SpanContext | None:
    """Return the context in *environ*, in ``TRACEPARENT`` and the other variables of the formats, or None."""
    if _formats == DEFAULT_FORMATS and not any(name in environ for name in _VARIABLES):
        return None  # as in most processes: not worth the import
    from .wire.environ import fields_of

    carrier = fields_of(environ, _formats)
    return extract(carrier) if carrier else None


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of *environ* with the current context, if there is one."""
    variables = dict(environ)
    carrier: dict[str, Any] = inject({})
    if carrier:
        from .wire.environ import set_fields

        set_fields(variables, carrier, _formats)
    return variables
