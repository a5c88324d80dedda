"""Random arguments, hostile and harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tracekit
from tracekit.wire import b3, cloudtrace, datadog, environ, grpc_bin, jaeger, ottrace, seed_header, w3c, xray

from . import hostile

if TYPE_CHECKING:
    import contextvars
    import random

FORMATS: list[Any] = [
    *(w3c.TRACECONTEXT, w3c.BAGGAGE, b3.SINGLE, b3.MULTI, jaeger.JAEGER, ottrace.OTTRACE, xray.XRAY, environ.ENVIRON),
    *(cloudtrace.CLOUDTRACE, datadog.DATADOG, grpc_bin.BINARY, seed_header.SEED),
]
FIELDS = sorted({field for format in FORMATS for field in format.fields} | {"uberctx-a", "ot-baggage-b", "x-b3-"})
IDS = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
HEADERS = [
    "-".join(("00", *IDS, "01")),
    "-".join((*IDS, "d")),
    "a=1,b=2",
    "a=%41;p=q,b=",
    "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
    ":".join((*IDS, "0", "3")),
    "1",
    "",
    "x" * 20000,
    "\udc80\u212a",
]
NAMES = ["a", "traceparent", "http.route", "", "\udc80", "x" * 5000]
KINDS = ["internal", "server", "client", "producer", "consumer"]
STATUS_CODES = ["unset", "ok", "error", "cancelled"]
_TEXTS = [NAMES, FIELDS, HEADERS, KINDS, STATUS_CODES]
_NUMBERS = [0, 1, -1, 2, 16, 32, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**30, 1_700_000_000 * 10**9]
POOL = 24


class Values:
    """Makes arguments, and keeps the results of earlier calls in pools to be used as arguments again.

    A pool is bounded: new results replace old ones, which are deallocated if nothing else refers to them.
    """

    def __init__(self, rng: random.Random, mischief: hostile.Mischief) -> None:
        self.rng = rng
        self.mischief = mischief
        self.spans: list[Any] = []
        self.scopes: list[Any] = []
        self.contexts: list[contextvars.Context] = []
        self.remote: list[Any] = []  # SpanContexts
        self.steps: list[Any] = []  # generators
        self.things: list[Any] = []  # other objects of the package
        self.watchers: list[Any] = []  # weak references with a callback

    @property
    def pools(self) -> list[list[Any]]:
        """All pools."""
        return [self.spans, self.scopes, self.contexts, self.remote, self.steps, self.things, self.watchers]

    # No pool is copied, since threads may share it: on CPython 3.11 a collection in the middle of PyList_AsTuple() or
    # list_slice() can let another thread run, and the copy then contains deallocated items.

    def keep(self, pool: list[Any], item: Any) -> None:
        """Add *item* to *pool*; if that is full, *item* replaces another."""
        if item is None:
            return
        if len(pool) < POOL:
            pool.append(item)
        else:
            try:
                pool[self.rng.randrange(POOL)] = item
            except IndexError:  # another thread has removed one
                pool.append(item)

    def pick(self, pool: list[Any], newest: int = POOL) -> Any:
        """Return one of the *newest* items of *pool*, or None if it is empty."""
        count = min(len(pool), newest)
        try:
            return pool[-1 - self.rng.randrange(count)] if count else None
        except IndexError:
            return None

    def text(self) -> Any:
        """Return a str."""
        text = self.rng.choice(self.rng.choice(_TEXTS))
        return hostile.HostileStr(text) if self.rng.random() < 0.5 else text

    def number(self) -> Any:
        """Return an int."""
        number = self.rng.choice(_NUMBERS)
        return hostile.HostileInt(number) if self.rng.random() < 0.5 else number

    def value(self, depth: int = 2) -> Any:
        """Return anything; containers are nested at most *depth* levels deep."""
        rng = self.rng
        match rng.randrange(16):
            case 0 | 1:
                return self.text()
            case 2:
                return self.number()
            case 3:
                return rng.choice([None, True, False, 1.5, float("nan"), float("inf"), hostile.HostileFloat(2.5)])
            case 4:
                return rng.choice([b"", b"\xff" * 9, hostile.HostileBytes(b"abc"), bytearray(b"a"), memoryview(b"ab")])
            case 5 if depth:
                return self.sequence(depth)
            case 6 | 7 if depth:
                return self.mapping(depth)
            case 8:
                return self.pick(self.spans)
            case 9:
                return self.pick(self.remote)
            case 10:
                return self.pick(self.scopes)
            case 11:
                return self.pick(self.things)
            case 12:
                return hostile.HostileObject()
            case 13:
                return rng.choice([hostile.HostileError(), ValueError("a"), KeyError, tracekit.ROOT, hostile.Hostility])
            case 14:
                return rng.choice(
                    [tracekit.Labels({"a": "1"}), tracekit.TraceState(), tracekit.Limits(), tracekit.Link]
                )
            case _:
                return rng.choice([len, hostile.HostileObject, object()])

    def sequence(self, depth: int = 2) -> Any:
        """Return a sequence or iterable of anything."""
        items = [self.value(depth - 1) for _ in range(self.rng.randrange(4))]
        kind = self.rng.choice([list, tuple, hostile.HostileList, hostile.HostileTuple, hostile.HostileIterable])
        return self.walked(kind(items))

    def mapping(self, depth: int = 2) -> Any:
        """Return a mapping, nearly always with str keys."""
        rng = self.rng
        pairs = {
            self.text() if rng.random() < 0.95 else self.number(): self.value(depth - 1)
            for _ in range(rng.randrange(5))
        }
        return self.walked(self._mapped(pairs))

    def _mapped(self, pairs: dict[Any, Any]) -> Any:
        return self.rng.choice([dict, dict, hostile.HostileDict, hostile.HostileMapping])(pairs)

    def walked(self, container: Any) -> Any:
        """Register *container* to be changed by hostile objects, in seven of ten cases."""
        if isinstance(container, (list, dict)) and self.rng.random() < 0.7:
            self.mischief.containers.append(container)
        return container

    def carrier(self) -> Any:
        """Return a carrier with the only references to most of its names and values: a change deallocates them."""
        rng = self.rng
        pairs = [self._pair() for _ in range(rng.choice([0, 1, 2, 3, 6]))]
        match rng.randrange(8):
            case 0 | 1 | 2:
                return self.walked(self._mapped({pair[0]: pair[1] for pair in pairs if len(pair) == 2}))
            case 3 | 4:
                return self.walked(pairs if rng.random() < 0.9 else [*pairs, self.value(0)])
            case 5:
                return self.walked(hostile.HostileList(pairs))
            case 6:
                return hostile.HostileIterable(pairs)
            case _:
                return tuple(pairs)

    def _pair(self) -> Any:
        rng = self.rng
        name: Any = rng.choice(FIELDS if rng.random() < 0.8 else NAMES)
        name = rng.choice([name, name.title(), name.upper(), f"HTTP_{name.upper().replace('-', '_')}"])
        text: Any = rng.choice(HEADERS)
        kind = hostile.HostileStr
        if rng.random() < 0.2:
            name, text, kind = name.encode("utf-8", "replace"), text.encode("utf-8", "replace"), hostile.HostileBytes
        value: Any = text
        match rng.randrange(6):
            case 0 | 1:
                value = kind(text)
            case 2:
                value = rng.choice([list, tuple, hostile.HostileList])([kind(text), text])
            case 3:
                value = self.value(1)
        pair = (kind(name) if rng.random() < 0.7 else name, value)
        return rng.choice([tuple, tuple, tuple, list, hostile.HostileTuple, hostile.HostileList])(pair)

    def links(self) -> Any:
        """Return something for ``links=``."""
        if self.rng.random() < 0.1:
            return self.value()
        links = [link for link in (self.pick(self.spans), self.pick(self.remote)) if link is not None]
        if links and self.rng.random() < 0.5:
            links.append(tracekit.Link(links[0], self.mapping()))
        return self.walked(self.rng.choice([list, tuple, hostile.HostileList, hostile.HostileIterable])(links))

    def exception(self) -> BaseException:
        """Return an exception."""
        rng = self.rng
        kinds = [ValueError, hostile.HostileError, hostile.HostileError, KeyboardInterrupt, SystemExit, GeneratorExit]
        error: BaseException = rng.choice(kinds)()
        return BaseExceptionGroup("group", [error, hostile.HostileError()]) if rng.random() < 0.2 else error


def shown(value: Any) -> str:
    """Return *value* for the log without calling any of its methods."""
    kind = type(value)
    name = type.__getattribute__(kind, "__name__")
    for plain in (str, bytes, int, float):
        if issubclass(kind, plain):
            text = plain.__repr__(value) if len(plain.__repr__(value)) < 60 else plain.__repr__(value)[:60] + "..."
            return text if kind in (plain, bool) else f"{name}({text})"
    if issubclass(kind, dict):
        items = list(dict.items(value))[:8]
        return f"{name}{{{', '.join([f'{shown(key)}: {shown(item)}' for key, item in items])}}}"
    if issubclass(kind, (list, tuple)):
        plain_kind = list if issubclass(kind, list) else tuple
        return f"{name}[{', '.join([shown(item) for item in list(plain_kind.__iter__(value))[:8]])}]"
    return "None" if value is None else f"<{name} {id(value):x}>"
