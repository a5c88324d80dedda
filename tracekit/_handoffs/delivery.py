"""Items that carry their sender's context through a queue or stream, and their delivery to a receiver."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from .._core.context import SpanContext
from .._core.scopes import current_context
from .._core.span import ROOT, Span, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")


class Envelope(tuple[T, SpanContext | None, int]):
    """A queued item, the context of its sender, and the time of sending on the monotonic clock. It holds no span."""

    __slots__ = ()

    def __lt__(self, other: tuple[Any, ...]) -> Any:
        """Compare the items alone, as a ``PriorityQueue`` would without tracekit."""
        return self[0] < other[0]


class Delivery(Generic[T]):
    """A received item, its sender's ``context`` (ids and labels, or None) and the seconds that it waited."""

    __slots__ = ("context", "item", "waited_s")

    def __init__(self, item: T, context: SpanContext | None, waited_s: float) -> None:
        self.item = item
        self.context = context
        self.waited_s = waited_s

    def span(
        self,
        name: str,
        *,
        root: bool = False,
        kind: Literal["internal", "server", "client", "producer", "consumer"] = "consumer",
        attributes: Mapping[str, Any] | None = None,
    ) -> Span:
        """Start a span for the work on this item; the attribute ``queue.wait_s`` has the seconds that the item waited.

        The span is a child of the sender's current span: one item, one job. With *root*, for a batch or after a long
        delay, it starts a new trace with a link to the sender's span, and without its labels. The span current here,
        in the worker, is never the parent. The span follows the sender's sampling decision, without a bound: the
        integrations that receive contexts from other services have one.
        """
        context = self.context
        if root or context is None:
            links = () if context is None or not context.is_valid else (context,)
            work = span(name, kind=kind, attributes=attributes, links=links, parent=ROOT)
        else:
            work = span(name, kind=kind, attributes=attributes, parent=context)
        work.set_attribute("queue.wait_s", self.waited_s)
        return work

    def __repr__(self) -> str:
        return f"<Delivery {self.item!r} from {self.context!r} after {self.waited_s:.6f} s>"


def seal(item: T) -> Envelope[T]:
    """Return *item* in an envelope with the current context and time."""
    return Envelope((item, current_context(), monotonic_ns()))


def open_envelope(envelope: tuple[T, SpanContext | None, int]) -> Delivery[T]:
    """Return the delivery of *envelope*, which arrives now."""
    item, context, sent_ns = envelope
    return Delivery(item, context, (monotonic_ns() - sent_ns) / 1e9)


class Deliveries(Generic[T]):
    """Asynchronous iterator over the deliveries that *receive* returns, until it raises *end*.

    Not a generator: the event loop would finalize one that is left early later, and trio warns about that.
    """

    __slots__ = ("_end", "_receive")

    def __init__(
        self, receive: Callable[[], Awaitable[Delivery[T]]], end: type[Exception] | tuple[type[Exception], ...]
    ) -> None:
        self._receive = receive
        self._end = end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery[T]:
        try:
            return await self._receive()
        except self._end:
            raise StopAsyncIteration from None
