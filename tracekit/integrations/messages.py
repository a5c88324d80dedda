"""Headers of Kafka, AMQP and SQS messages: the context to send with a message, and the delivery of a received one.

::

    producer.send("orders", value, headers=messages.kafka_headers())
    for record in consumer:
        with messages.from_kafka(record).span("process orders"):
            ...

Nothing is imported or patched, so these work with every client: kafka-python, aiokafka and confluent-kafka, pika and
aio-pika, boto3 and aiobotocore. Contexts are written and read in the configured formats. A delivery's ``waited_s`` is the
time since the message's timestamp, by the wall clocks of both sides; 0 if it has none.
"""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .. import Delivery, extract, inject
from ._http import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["amqp_headers", "from_amqp", "from_kafka", "from_sqs", "kafka_headers", "sqs_attributes"]

T = TypeVar("T")

_MAX_SQS: Final = 10  # attributes of a message
_KAFKA_KINDS: Final = (1, 2)  # of confluent-kafka's timestamps: when the record was made, or appended by the broker


def kafka_headers(headers: Iterable[tuple[str, bytes | None]] | None = None) -> list[tuple[str, bytes | None]]:
    """Return *headers* with the current context, as pairs of str and bytes."""
    written = _written()
    kept: list[tuple[str, bytes | None]] = [pair for pair in headers or () if pair[0] not in written]
    return kept + [(name, value if isinstance(value, bytes) else value.encode()) for name, value in written.items()]


def from_kafka(record: T) -> Delivery[T]:
    """Return the delivery of *record*, which has ``headers`` and ``timestamp``, as attributes or as methods."""
    headers, timestamp = _field(record, "headers"), _field(record, "timestamp")
    if isinstance(timestamp, tuple) and len(timestamp) == 2:
        timestamp = timestamp[1] if timestamp[0] in _KAFKA_KINDS else None
    return _delivery(record, headers, timestamp / 1000 if isinstance(timestamp, int) else None)


def amqp_headers(headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return *headers* with the current context, for ``Message`` of aio-pika or ``BasicProperties`` of pika."""
    return {**(headers or {}), **_written()}


def from_amqp(message: T, headers: Mapping[str, Any] | None = None) -> Delivery[T]:
    """Return the delivery of *message*, which has ``headers`` and ``timestamp``, as aio-pika's and pika's properties.

    Give *headers* if they are elsewhere.
    """
    timestamp = _field(message, "timestamp")
    if isinstance(timestamp, datetime.datetime):
        timestamp = timestamp.timestamp()
    if headers is None:
        headers = _field(message, "headers")
    return _delivery(message, headers, timestamp if isinstance(timestamp, int | float) else None)


def sqs_attributes(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return *attributes* with the current context, for ``MessageAttributes``, of which SQS allows ten.

    Fields that do not fit are left out, from the end of the configured formats. The receiver has to ask for the attributes:
    ``receive_message(MessageAttributeNames=["All"], AttributeNames=["SentTimestamp"])``.
    """
    found = dict(attributes or {})
    for name, value in _written().items():
        if name in found or len(found) < _MAX_SQS:
            kind = "Binary" if isinstance(value, bytes) else "String"
            found[name] = {"DataType": kind, f"{kind}Value": value}
    return found


def from_sqs(message: Mapping[str, Any]) -> Delivery[Mapping[str, Any]]:
    """Return the delivery of *message*, a dict of ``receive_message()``.

    AWS's own ``AWSTraceHeader`` is read if the X-Ray format is configured.
    """
    carrier, sent_s = {}, None
    try:
        for name, attribute in (message.get("MessageAttributes") or {}).items():
            carrier[name] = attribute.get("StringValue") or attribute.get("BinaryValue") or ""
        system = message.get("Attributes") or {}
        if "AWSTraceHeader" in system:
            carrier["x-amzn-trace-id"] = system["AWSTraceHeader"]
        if "SentTimestamp" in system:
            sent_s = int(system["SentTimestamp"]) / 1000
    except Exception as error:  # not a message of SQS
        report(error)
    return _delivery(message, carrier, sent_s)


def _written() -> dict[str, str | bytes]:
    carrier: dict[str, str | bytes] = {}
    return inject(carrier)


def _field(message: object, name: str) -> Any:
    found = getattr(message, name, None)
    return found() if callable(found) else found


def _delivery(item: T, headers: Any, sent_s: float | None) -> Delivery[T]:
    try:
        context = extract(headers) if headers else None
    except Exception as error:  # headers of another type
        report(error)
        context = None
    waited_s = 0.0
    if sent_s is not None and sent_s > 0:  # Kafka has -1 for a record without a timestamp
        waited_s = max(0.0, time.time() - sent_s)
    return Delivery(item, context, waited_s)
