"""Defaults for ``configure()`` from OpenTelemetry's environment variables.

An empty value counts as unset. So does an invalid one, which is reported in a line with the variable, its value and the
default used instead.

Spec: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from ._core.errors import clip
from ._core.records import Limits
from ._export.notices import describe, log
from ._plugins import EXPORTERS
from ._propagation import DEFAULT_FORMATS, formats_named
from ._sampling import AlwaysOff, AlwaysOn, Ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ._export.exporter import Exporter
    from .wire import Format

    T = TypeVar("T")

_MAX_VALUE = 1 << 16
_MAX_LOGGED = 256
# Names of OpenTelemetry's own exporters, which fix the protocol, whatever OTEL_EXPORTER_OTLP_PROTOCOL says.
_OTLP_PROTOCOLS = {"otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}
_SAMPLERS = ("always_on", "always_off", "traceidratio")
_HEX = frozenset("0123456789abcdefABCDEF")

_logged: set[str] = set()


class Environment:
    """One environment: each method reads the setting of its name; ``wrong`` has a line for each invalid variable."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._given = variables
        self._variables = os.environ if variables is None else variables
        self.wrong: dict[str, str] = {}
        self.otlp_protocol: str | None = None  # as the name of the exporter says, once it was read

    def text(self, name: str) -> str:
        """Return the value of the variable *name*, or "" where it is unset, empty or blank."""
        text = self._variables.get(name, "")
        if not isinstance(text, str):
            raise TypeError(f"environ must hold str, not {type(text).__name__}: {name}")
        return text.strip()

    def value(
        self,
        names: str | Sequence[str],
        read: Callable[[str], T],
        default: T,
        instead: str = "",
        show: Callable[[str], str] = clip,
    ) -> T:
        """Return the first of *names* that is set and valid, read by *read*, or *default*, reported as *instead*.

        *read* raises ValueError with the values that are valid; *show* formats the value for its line.
        """
        found, used = default, instead or str(default)
        wrong = {}
        for name in (names,) if isinstance(names, str) else names:
            text = self.text(name)
            if not text:
                continue
            try:
                if len(text) > _MAX_VALUE:
                    raise ValueError(f"must be at most {_MAX_VALUE} characters")
                found, used = read(text), name
                break
            except ValueError as error:
                wrong[name] = f"{name} is {show(text)}, {error}"
        self.wrong |= {name: f"{line}; {used} is used" for name, line in wrong.items()}
        return found

    def is_disabled(self) -> bool:
        """Return whether recording is disabled."""
        return self.value("OTEL_SDK_DISABLED", boolean, False, "false")

    def resource(self) -> dict[str, str]:
        """Return the attributes of the resource, with the name of the service."""
        nothing: dict[str, str] = {}
        # The specification discards the whole value if one pair is invalid.
        found = self.value("OTEL_RESOURCE_ATTRIBUTES", _attributes, nothing, "nothing of it")
        service = self.text("OTEL_SERVICE_NAME") or found.get("service.name") or "unknown_service"
        return found | {"service.name": service}

    def formats(self) -> Sequence[Format]:
        """Return the formats to read and write."""
        # OpenTelemetry's API knows the bridge's propagator as "tracekit": that one has all formats.
        names = [name for name in self._names("OTEL_PROPAGATORS") if name != "tracekit"]
        if not names:
            return DEFAULT_FORMATS
        found, unknown = formats_named(",".join(names))
        formats = tuple(found) if found or "none" in names else DEFAULT_FORMATS
        if unknown:
            left_out = ", ".join(map(clip, unknown))[:400]
            used = "the others are" if found else f"{','.join(format.name for format in formats) or 'none'} is"
            self.wrong["OTEL_PROPAGATORS"] = (
                f"OTEL_PROPAGATORS names {left_out}, which tracekit does not know; {used} used"
            )
        return formats

    def sampler(self) -> AlwaysOn | AlwaysOff | Ratio:
        """Return the sampler of new traces; names with and without ``parentbased_`` are equivalent."""
        known = one_of(*_SAMPLERS, *(f"parentbased_{name}" for name in _SAMPLERS))
        name = self.value("OTEL_TRACES_SAMPLER", known, "parentbased_always_on").removeprefix("parentbased_")
        if name == "traceidratio":
            return Ratio(self.value("OTEL_TRACES_SAMPLER_ARG", _share, 1.0))
        return AlwaysOn() if name == "always_on" else AlwaysOff()

    def limits(self) -> Limits:
        """Return the limits of a span."""
        count, usual = whole(0, 1 << 31), Limits()
        both = ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")
        lengths = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
        return Limits(
            attributes=self.value(both, count, usual.attributes),
            events=self.value("OTEL_SPAN_EVENT_COUNT_LIMIT", count, usual.events),
            links=self.value("OTEL_SPAN_LINK_COUNT_LIMIT", count, usual.links),
            value_length=self.value(lengths, count, usual.value_length),
        )

    def buffer_size(self) -> int:
        """Return the capacity of the buffer, in finished spans."""
        return self.value("OTEL_BSP_MAX_QUEUE_SIZE", whole(2, 1 << 24), 16384)

    def batch_size(self, buffer_size: int) -> int | None:
        """Return the size of a batch, at most *buffer_size*, or None for the default."""
        return self.value("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", whole(1, buffer_size), None, "the default")

    def export_interval_s(self) -> float:
        """Return the export interval in seconds."""
        return self.value("OTEL_BSP_SCHEDULE_DELAY", whole(1, 3_600_000), 1000) / 1000

    def exporter_name(self) -> str:
        """Return ``otlp``, ``console``, ``sqlite`` or ``none``."""
        names = self._names("OTEL_TRACES_EXPORTER")
        known = [name for name in names if name in EXPORTERS or name in _OTLP_PROTOCOLS or name == "none"]
        has_endpoint = self.text("OTEL_EXPORTER_OTLP_ENDPOINT") or self.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        used = known[0] if known else "otlp" if has_endpoint else "none"
        rest = [name for name in names if name != used]
        if rest:
            left_out = ", ".join(map(clip, rest))[:400] + (f" besides {used}" if known else "")
            self.wrong["OTEL_TRACES_EXPORTER"] = (
                f"OTEL_TRACES_EXPORTER names {left_out}, but must be one of {', '.join(EXPORTERS)}, none; {used} is used"
            )
        self.otlp_protocol = _OTLP_PROTOCOLS.get(used)
        return used if self.otlp_protocol is None else "otlp"

    def exporter_type(self, name: str) -> Callable[..., Exporter] | None:
        """Return the factory of the exporter *name*, or None if it cannot be imported."""
        import importlib  # only the named one is needed

        module, kind = EXPORTERS[name]
        try:
            return getattr(importlib.import_module(module), kind)  # type: ignore[no-any-return]
        except ImportError as error:
            missing = clip(error.name or str(error))
            self.wrong["exporter"] = (
                f"exporter {name} needs {missing}: this Python was built without it; nothing is exported"
            )
        except Exception as error:  # a broken installation must not stop the program
            self._failed(name, error)
        return None

    def exporter(self, name: str | None = None) -> Exporter | None:
        """Return a new exporter, *name* or the one that the environment names; None if there is none, or it fails."""
        if name is None:
            name = self.exporter_name()
        make = None if name == "none" else self.exporter_type(name)
        if make is None:
            return None
        try:
            if name == "sqlite":
                return make(self.sqlite_path())
            # OTLPExporter reads its own variables.
            options = {"environ": self._given, "protocol": self.otlp_protocol} if name == "otlp" else {}
            return make(**{key: value for key, value in options.items() if value is not None})
        except Exception as error:
            self._failed(name, error)
            return None

    def sqlite_path(self) -> str:
        """Return the file for the exporter ``sqlite``."""
        return self.value("TRACEKIT_SQLITE_PATH", _file_name, "traces.db")

    def debug_pages(self) -> tuple[str, int] | None:
        """Return host and port at which the process serves its debug pages, or None."""
        nowhere: tuple[str, int] | None = None
        return self.value("TRACEKIT_DEBUG_PAGES", _address, nowhere, "no address")

    def _failed(self, name: str, error: Exception) -> None:
        self.wrong["exporter"] = f"exporter {name} failed: {describe(error)}; nothing is exported"

    def _names(self, variable: str) -> list[str]:
        names = [name.strip().lower() for name in self.text(variable)[:_MAX_VALUE].split(",")]
        return list(dict.fromkeys(filter(None, names)))


def say(lines: Iterable[str]) -> None:
    """Log each of *lines* as a warning, once in the life of the process."""
    for line in lines:
        if line in _logged or len(_logged) >= _MAX_LOGGED:
            continue
        _logged.add(line)
        log("warning", "%s", line)


# ---- readers for value()


def boolean(text: str) -> bool:
    """Return whether *text* is "true"; every other value is false, as the specification requires."""
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of integers from *low* to *high*."""

    def read(text: str) -> int:
        # int() alone would also take "_", "+" and full-width digits.
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
        if not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Return a case-insensitive reader of one of *words*."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return read


def pairs(text: str) -> list[tuple[str, str]]:
    """Return the pairs of ``name=value,name=value``, percent-decoded; empty members are ignored."""
    found = []
    for at, member in enumerate(text.split(","), 1):
        name, equals, value = member.partition("=")
        if not member.strip():
            continue
        if not (name.strip() and equals):
            raise ValueError(f"must be name=value,name=value: member {at} is not")
        try:
            found.append((_unescaped(name.strip()), _unescaped(value.strip())))
        except ValueError:
            raise ValueError(f"must be percent-encoded UTF-8: member {at} is not") from None
    return found


def _unescaped(text: str) -> str:
    head, *parts = text.split("%")
    octets = bytearray(head.encode())
    for part in parts:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            raise ValueError("a % must be followed by two hex digits")
        octets += bytes.fromhex(part[:2]) + part[2:].encode()
    return octets.decode()


def _attributes(text: str) -> dict[str, str]:
    return dict(pairs(text))


def _share(text: str) -> float:
    try:
        number = float(text) if text.isascii() and "_" not in text else -1.0
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("must be a number from 0 to 1")
    return number


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:6070")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _file_name(text: str) -> str:
    try:
        is_name = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise ValueError("must name a file")
    return text
