"""Invalid ``extra`` words, from a pickle or a program, and the check that writing them does no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

import tracekit

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS = st.text('aZ019?-_:;,=%/ \t"\\\r\n\0\x7f\xe9\u212a\uff11\udc80', max_size=12)
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | _TEXTS
_NESTED = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


def extras(words: Sequence[str]) -> st.SearchStrategy[Any]:
    """Return a strategy for plain values, mostly pairs of texts similar to *words*, the words of the format."""
    word = st.sampled_from(words) | _TEXTS | st.builds(str.__add__, st.sampled_from(words), _TEXTS)
    return word | st.lists(st.tuples(word, word) | _NESTED, max_size=5).map(tuple) | _NESTED


def write_hostile(format: Any, context: Any, extra: Any) -> Any:
    """Write *context* with *extra*, assert legal headers that read back equal, and return the read context."""
    carrier: dict[str, Any] = {}
    format.write(context.replace(extra={format.name: extra}), carrier)
    for text in carrier.values():
        assert text.isascii()
        assert text.isprintable()
        assert text == text.strip(" ")
        assert text
    tracekit.configure(formats=[format])
    again = tracekit.extract([(name.encode(), text.encode()) for name, text in carrier.items()])
    assert again is not None
    assert (again.id, again.sampled, again.deferred) == (context.id, context.sampled, context.deferred)
    carried: dict[str, Any] = {}
    format.write(again, carried)
    assert carried == carrier
    return again
