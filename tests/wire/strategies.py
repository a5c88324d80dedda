"""Hypothesis strategies for every format."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext

from .vector_files import DIRECTORY, load

_IDS = st.integers(1, (1 << 128) - 1) | st.integers(1, (1 << 64) - 1)
CONTEXTS = st.builds(
    lambda trace, span, flags, deferred: SpanContext(
        f"{trace:032x}", f"{span:016x}", 0 if deferred else flags, deferred=deferred, is_remote=True
    ),
    _IDS,
    st.integers(1, (1 << 64) - 1),
    st.integers(0, 1),
    st.booleans(),
)

_VECTORS = [
    text
    for file in sorted(DIRECTORY.glob("*.json"))
    for case in load(file.stem)
    for value in case.carrier.values()
    for text in (value if isinstance(value, list) else [value])
    if isinstance(text, str) and len(text) < 300
]
_CHARS = st.text('0123456789abcdefABCDEFxyz-_:;,=%+/?@ \t"\\\0\r\n\x7f\xe9\u212a\uff11\U0001d7ce\udc80', max_size=90)


@st.composite
def _cut_and_pasted(draw: Any) -> str:
    text = draw(st.sampled_from(_VECTORS))
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(_CHARS) + text[at + draw(st.integers(0, 20)) :]


_LONG = st.builds(str.__mul__, st.text(st.characters(), min_size=1, max_size=4) | _CHARS, st.integers(2, 300))
TEXTS = st.one_of(st.text(st.characters(), max_size=80), _CHARS, _LONG, st.sampled_from(_VECTORS), _cut_and_pasted())


def reads_or_rejects(format: Any, pairs: list[tuple[str, Any]]) -> None:
    """Assert that *format* reads *pairs* or raises ``FormatError``, that ``extract`` never raises, and that a read
    context is written as legal text and reads back equal."""
    tracekit.configure(formats=[format])
    extracted = tracekit.extract(pairs)
    try:
        context = format.read(pairs)
        refusal = None
    except FormatError as error:
        context, refusal = None, error
    if refusal is not None:
        assert refusal.field in format.fields
        assert str(refusal).replace("…", "").isascii()
        assert str(refusal).isprintable()
    assert extracted == context
    if context is None:
        return
    carrier: dict[str, Any] = {}
    format.write(context, carrier)
    for text in carrier.values():
        if isinstance(text, str):
            assert text.isascii()
            assert text.isprintable()
            assert text == text.strip(" ")
    again = format.read(carrier)
    assert again == context
    carried: dict[str, Any] = {}
    format.write(again, carried)
    assert carried == carrier
