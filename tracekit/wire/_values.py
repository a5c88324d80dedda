"""Parts that several wire formats share: checks of field values, labels, and the count of values that they cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, parse_decimal, parse_hex, put
from .._core.context import make_remote
from .._core.errors import FormatError
from .._core.labels import Labels

if TYPE_CHECKING:
    from .._core.context import SpanContext

DEFERRED: Final = 0x100  # among the flags for make_remote(): no decision about sampling has been made


class Counting:
    """A format that counts in ``left_out`` the values that it could not write; it pickles as its name, *constant*."""

    def __init__(self, constant: str) -> None:
        self._constant = constant
        self.left_out = 0

    def __reduce__(self) -> str:
        return self._constant


def single(field: str, value: str | list[str] | None, max_chars: int | None = None) -> str | None:
    """Return the value of *field* or None; raise ``FormatError`` for several values or more than *max_chars*."""
    if isinstance(value, list):
        raise FormatError(field, f"{len(value)} values, must be one")
    if value is not None and max_chars is not None and len(value) > max_chars:
        raise FormatError(field, f"{len(value)} characters, must be {max_chars} at most")
    return value


def missing(field: str) -> FormatError:
    """Return the error for a *field* that is absent although its companions are present."""
    return FormatError(field, "missing, and without it the others mean nothing")


def bad_hex(text: str, start: int = 1) -> int | None:
    """Return the column of the first character in *text* that is not a hex digit, counted from *start*, or None."""
    return next((at for at, char in enumerate(text, start) if char not in "0123456789abcdefABCDEF"), None)


def labels_of(found: dict[str, str], bad: int) -> Labels:
    """Return the labels *found*; *bad* malformed ones are counted in ``dropped``."""
    # Labels.parse() counts members without keys as dropped.
    return Labels.parse("=," * bad).merge(Labels(found))


def parts_of(labels: Labels) -> int:
    """Return the number of members and properties of *labels*, of which many formats can write a part only."""
    return len(labels.members) + sum([len(properties) for _, _, properties in labels.members])


class Slashed(Counting):
    """A format of one header, ``trace-id "/" span-id [ ";" [ "o=" [ options ] ] ]``; the span id is the subclass's.

    options = 1*3DIGIT; bit 0: sampled; absent: undecided. Those above 1 are kept as ``extra[name]``.
    """

    name: str
    fields: tuple[str, ...]
    _max_chars: int

    def __init__(self, constant: str) -> None:
        super().__init__(constant)
        (self._field,) = self.fields
        self._sieve = Sieve(self.fields)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the header, or None."""
        text = single(self._field, self._sieve.collect(carrier)[0], self._max_chars)
        if text is None:
            return None
        ids, _, options = text.partition(";")
        digits, slash, span = ids.partition("/")
        trace_id = parse_hex(digits.lower(), 32)
        if not trace_id:
            reason = "the trace id must be 32 hex digits, not all zeros"
            raise FormatError(self._field, reason, text, bad_hex(digits) or 1)
        span_id = self._span_id(text, slash, span)
        flags, kept = DEFERRED, None
        if options not in ("", "o="):
            number = parse_decimal(options[2:])
            if options[:2] != "o=" or len(options) > 5 or number < 0:
                raise FormatError(self._field, "the options must be o= and up to three digits", text, len(ids) + 2)
            flags, kept = number & 1, None if options[2:] in ("0", "1") else {self.name: options[2:]}
        return make_remote(trace_id, span_id, flags, kept)

    def _span_id(self, text: str, slash: str, span: str) -> int:
        """Return the id that *span*, behind the *slash* in *text*, spells; raise ``FormatError``."""
        raise NotImplementedError

    def _put(self, context: SpanContext, carrier: Any, ids: str | None) -> None:
        """Set the header to *ids* and the options of *context*, or remove it."""
        text = ids
        if ids is not None:
            kept = context.extra.get(self.name)
            number = parse_decimal(kept) if type(kept) is str and len(kept) <= 3 else -1
            self.left_out += kept is not None and number < 0
            if not context.deferred:
                decision = context.flags & 1
                text = f"{ids};o={kept if number >= 0 and number & 1 == decision else decision}"
        put(carrier, self._field, text)
