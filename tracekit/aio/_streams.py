"""anyio's memory object streams, whose items carry their sender's context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from .._handoffs.delivery import Deliveries, Delivery, Envelope, open_envelope, seal

if TYPE_CHECKING:
    from anyio.streams import memory

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class _End:
    """The methods of both ends."""

    __slots__ = ("_stream",)

    _stream: memory.MemoryObjectSendStream[Any] | memory.MemoryObjectReceiveStream[Any]

    def close(self) -> None:
        """Close this end.

        After the last sender, receivers get ``anyio.EndOfStream``; after the last receiver, senders get
        ``anyio.BrokenResourceError``.
        """
        self._stream.close()

    async def aclose(self) -> None:
        """Close this end."""
        self._stream.close()

    def statistics(self) -> memory.MemoryObjectStreamStatistics:
        """Return the numbers of items and of tasks that wait, and of open ends."""
        return self._stream.statistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()


class MemoryObjectSendStream(_End, ObjectSendStream[T_contra], Generic[T_contra]):
    """The sending end: the context of the call of ``send`` or ``send_nowait`` travels with the item.

    Methods and errors are those of ``anyio.streams.memory.MemoryObjectSendStream``.
    """

    __slots__ = ()

    _stream: memory.MemoryObjectSendStream[Envelope[T_contra]]

    def __init__(self, stream: memory.MemoryObjectSendStream[Envelope[T_contra]]) -> None:
        self._stream = stream

    def send_nowait(self, item: T_contra) -> None:
        """Send *item* if that needs no waiting; raise ``anyio.WouldBlock`` if it does."""
        self._stream.send_nowait(seal(item))

    async def send(self, item: T_contra) -> None:
        """Send *item*, waiting for room or a receiver; the wait counts as waiting for the receiver, too."""
        await self._stream.send(seal(item))

    def clone(self) -> MemoryObjectSendStream[T_contra]:
        """Return another sending end of the same stream, which must be closed separately."""
        return MemoryObjectSendStream(self._stream.clone())


class MemoryObjectReceiveStream(_End, ObjectReceiveStream[T_co], Generic[T_co]):
    """The receiving end: ``receive()`` and iteration return the item, ``receive_delivery()`` its context too.

    Methods and errors are those of ``anyio.streams.memory.MemoryObjectReceiveStream``.
    """

    __slots__ = ()

    _stream: memory.MemoryObjectReceiveStream[Envelope[T_co]]

    def __init__(self, stream: memory.MemoryObjectReceiveStream[Envelope[T_co]]) -> None:
        self._stream = stream

    def receive_nowait(self) -> T_co:
        """Return the next item if there is one; raise ``anyio.WouldBlock`` if not."""
        return self._stream.receive_nowait()[0]

    async def receive(self) -> T_co:
        """Return the next item, waiting for it."""
        return (await self._stream.receive())[0]

    def receive_delivery_nowait(self) -> Delivery[T_co]:
        """Return the next item with its sender's context if there is one; raise ``anyio.WouldBlock`` if not."""
        return open_envelope(self._stream.receive_nowait())

    async def receive_delivery(self) -> Delivery[T_co]:
        """Return the next item with its sender's context, waiting for it."""
        return open_envelope(await self._stream.receive())

    def deliveries(self) -> Deliveries[T_co]:
        """Iterate over items with their senders' contexts until the stream is closed."""
        return Deliveries(self.receive_delivery, anyio.EndOfStream)

    def clone(self) -> MemoryObjectReceiveStream[T_co]:
        """Return another receiving end of the same stream, which must be closed separately."""
        return MemoryObjectReceiveStream(self._stream.clone())


class create_memory_object_stream(  # noqa: N801
    tuple[MemoryObjectSendStream[T], MemoryObjectReceiveStream[T]]
):
    """Return a sending and a receiving end, as ``anyio.create_memory_object_stream`` does.

    A class, as anyio's is, for the sake of ``create_memory_object_stream[int](5)``; it returns a plain tuple.
    """

    def __new__(  # type: ignore[misc]
        cls, max_buffer_size: float = 0, item_type: object = None
    ) -> tuple[MemoryObjectSendStream[T], MemoryObjectReceiveStream[T]]:
        """*item_type* does nothing since anyio 4, which warns of it."""
        send, receive = anyio.create_memory_object_stream[Envelope[T]](max_buffer_size, item_type)
        return MemoryObjectSendStream(send), MemoryObjectReceiveStream(receive)
