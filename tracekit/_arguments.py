"""Checks of the arguments of ``configure()``, which raise, and of timeouts, which do not. Messages name the parameter."""

from __future__ import annotations

from ._core.checks import check_above_0, check_bool, check_called_at_once, check_int
from ._core.guard import type_name
from ._core.misuse import misused
from ._core.records import Limits
from ._core.stdlib import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, Protocol

    from ._sampling import AlwaysOff, AlwaysOn, Ratio, Sampler
    from .wire import Format

    class OtelSampler(Protocol):
        """OpenTelemetry's Sampler."""

        def should_sample(
            self, parent_context: Any, trace_id: int, name: str, kind: Any, attributes: Any, links: Any
        ) -> Any: ...

    class OtelIds(Protocol):
        """OpenTelemetry's IdGenerator."""

        def generate_trace_id(self) -> int: ...
        def generate_span_id(self) -> int: ...

    P = ParamSpec("P")


_LONGEST = 1e9  # that every wait of the standard library takes: 31 years of seconds, 11 days of milliseconds

# The names that other tracers have for arguments of configure(), where they are not close to those here.
_KEYWORDS = {
    "attributes": "resource",
    "endpoint": "exporter=OTLPExporter(endpoint)",
    "headers": "exporter=OTLPExporter(endpoint, headers=...)",
    "processor": "exporter",
    "processors": "exporter",
    "propagator": "formats",
    "propagators": "formats",
    "sample_rate": "sampler=tracekit.Ratio(...)",
    "span_limits": "limits",
    "span_processor": "exporter",
    "traces_sample_rate": "sampler=tracekit.Ratio(...)",
}


def names_right_keyword(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap *function* so that the TypeError for an unknown keyword argument names the one that was meant."""

    def call(*arguments: P.args, **options: P.kwargs) -> None:
        unknown = options.keys() - known
        if unknown:
            from difflib import get_close_matches

            name = min(unknown)
            close = [_KEYWORDS[name]] if name in _KEYWORDS else get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise TypeError(f"{function.__name__}() has no argument {name[:64]!a}{hint}")
        function(*arguments, **options)

    code = function.__code__
    known = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    # As by functools.wraps(), whose import takes as long as that of tracekit.
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(call, name, getattr(function, name))
    call.__dict__["__wrapped__"] = function
    return call


def bounded_timeout(timeout: Any, default: float, parameter: str = "timeout_s") -> float:
    """Return *timeout* as a number that can be waited for: 0 for nan and below 0, and 1e9 at most.

    Never raises: anything but an int or float is reported as misuse, and means *default*.
    """
    if issubclass(type(timeout), float):
        number = float.__float__(timeout)  # of a subclass, too, without calling its methods
    elif issubclass(type(timeout), int):
        number = float(max(0, min(int.__int__(timeout), int(_LONGEST))))
    else:
        misused(TypeError(f"{parameter} must be a number, not {type_name(timeout)}"))
        return default
    return min(number, _LONGEST) if number > 0 else 0.0


def check_arguments(
    service: Any,
    resource: Any,
    exporter: Any,
    id_generator: Any,
    limits: Any,
    buffer_size: Any,
    batch_size: Any,
    export_interval_s: Any,
    environ: Any,
    strict: Any,
) -> None:
    """Raise ``TypeError`` or ``ValueError`` for an invalid argument; None is valid for all."""
    for parameter, value, kind, named in (
        ("service", service, str, "str"),
        ("resource", resource, Mapping, "a mapping"),
        ("limits", limits, Limits, "tracekit.Limits"),
        ("environ", environ, Mapping, "a mapping"),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{parameter} must be {named}, not {type(value).__name__}")
    if isinstance(exporter, str):
        if exporter not in ("otlp", "sqlite", "console"):
            # A URL is not repeated: it may hold a password.
            given = "a URL: write OTLPExporter(url)" if "://" in exporter else f"{exporter[:64]!a}"
            raise ValueError(f"exporter must be 'otlp', 'sqlite', 'console' or an exporter, not {given}")
    elif exporter is not None:
        check_exporter(exporter)
    if id_generator is not None and (
        isinstance(id_generator, type)
        or not all(callable(getattr(id_generator, f"generate_{part}_id", None)) for part in ("trace", "span"))
    ):
        raise TypeError(
            f"id_generator must have generate_trace_id() and generate_span_id(), not {type(id_generator).__name__}"
        )
    for limit in limits or ():
        check_int("limits", limit, 0, 1 << 31)
    for parameter, number, least in (("buffer_size", buffer_size, 2), ("batch_size", batch_size, 1)):
        if number is not None:
            check_int(parameter, number, least, 1 << 24)
    if export_interval_s is not None:
        check_above_0("export_interval_s", export_interval_s, 3600)
    if strict is not None:
        check_bool("strict", strict)


def check_exporter(exporter: object) -> None:
    """Raise ``TypeError`` unless *exporter* is an object with ``export()``."""
    if isinstance(exporter, type):
        raise TypeError(f"exporter must be an instance, not the class {exporter.__name__}")
    if not callable(getattr(exporter, "export", None)):
        raise TypeError(f"exporter must have export() and shutdown(), not {type(exporter).__name__}")
    for name in ("export", "shutdown"):
        check_called_at_once(f"{name}() of the exporter", getattr(exporter, name, None))


def formats_of(formats: Sequence[Format | str]) -> Sequence[Format]:
    """Return *formats* with names resolved; raise ``TypeError`` or ``ValueError`` for anything that is no format."""
    from ._propagation import check_fields, formats_named, names_of_formats

    if isinstance(formats, str) or not isinstance(formats, Sequence):
        raise TypeError(f"formats must be a sequence of formats, such as ['b3'], not {type(formats).__name__}")
    found: list[Format] = []
    for format in formats:
        if isinstance(format, str):
            named, unknown = formats_named(format)
            if unknown or not named:
                known = ", ".join(names_of_formats())
                raise ValueError(f"formats must hold formats, or names such as {known}; not {format[:64]!a}")
            found += named
            continue
        if not (hasattr(format, "read") and hasattr(format, "write") and hasattr(format, "fields")):
            raise TypeError(f"formats must hold formats such as w3c.TRACECONTEXT, not {type(format).__name__}")
        check_fields(format)
        found.append(format)
    return tuple(found)


def sampler_of(sampler: Any) -> AlwaysOn | AlwaysOff | Ratio | Sampler:
    """Return *sampler*, wrapped if it is OpenTelemetry's; raise ``TypeError`` for anything that is no sampler."""
    if not isinstance(sampler, type):
        if callable(getattr(sampler, "sample", None)):
            made: Sampler = sampler
            return made
        if callable(getattr(sampler, "should_sample", None)):
            from ._foreign import ForeignSampler

            return ForeignSampler(sampler)
    given = f"the class {sampler.__name__}" if isinstance(sampler, type) else type(sampler).__name__
    raise TypeError(f"sampler must be a sampler such as tracekit.Ratio(0.1), or one of OpenTelemetry's, not {given}")
