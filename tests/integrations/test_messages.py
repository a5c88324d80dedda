"""Headers of messages, with the message classes of the clients themselves."""

from __future__ import annotations

import dataclasses
import datetime
import time
from types import SimpleNamespace

import aio_pika
import boto3
import pytest
from botocore.stub import Stubber

import tracekit
from tracekit.integrations import messages
from tracekit.testing import span_tree
from tracekit.wire.xray import XRAY


@pytest.fixture
def sent():
    with tracekit.span("send", kind="producer") as span, tracekit.use_labels(tenant="a"):
        yield span.context


def check(delivery, sent, waited_s):
    assert delivery.context.id == sent.id
    assert delivery.context.labels["tenant"] == "a"
    assert waited_s <= delivery.waited_s < waited_s + 60


def test_kafka(sent):
    headers = messages.kafka_headers([("id", b"7"), ("traceparent", b"stale")])
    assert [name for name, _ in headers] == ["id", "traceparent", "baggage"]
    assert all(isinstance(value, bytes) for _, value in headers)
    then = int((time.time() - 5) * 1000)
    for record in (
        SimpleNamespace(headers=headers, timestamp=then),  # kafka-python and aiokafka
        SimpleNamespace(headers=lambda: headers, timestamp=lambda: (1, then)),  # confluent-kafka
    ):
        check(messages.from_kafka(record), sent, 5)
    assert messages.from_kafka(SimpleNamespace(headers=None, timestamp=None)).context is None
    for none in (-1, lambda: (0, 0), lambda: (1, -1)):
        assert messages.from_kafka(SimpleNamespace(headers=list, timestamp=none)).waited_s == 0


def test_a_record_of_aiokafka(sent):
    from aiokafka.structs import ConsumerRecord

    values = {field.name: None for field in dataclasses.fields(ConsumerRecord)}
    values |= {"headers": messages.kafka_headers(), "timestamp": int((time.time() - 5) * 1000)}
    check(messages.from_kafka(ConsumerRecord(**values)), sent, 5)


def test_amqp(sent):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=5)
    message = aio_pika.Message(b"7", headers=messages.amqp_headers({"id": 7}), timestamp=then)
    assert message.headers["id"] == 7
    check(messages.from_amqp(message), sent, 5)
    properties = SimpleNamespace(headers=messages.amqp_headers(), timestamp=int(time.time()) - 5)  # pika's
    check(messages.from_amqp(properties), sent, 5)
    check(messages.from_amqp("body", headers=messages.amqp_headers()), sent, 0)
    assert messages.from_amqp(SimpleNamespace(headers=None, timestamp=None)).context is None


def test_sqs(sent):
    attributes = messages.sqs_attributes({"id": {"DataType": "Number", "StringValue": "7"}})
    client = boto3.client("sqs", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:  # checks the types of the arguments
        stub.add_response("send_message", {})
        client.send_message(QueueUrl="https://queue", MessageBody="7", MessageAttributes=attributes)
    message = {
        "Body": "7",
        "MessageAttributes": attributes,
        "Attributes": {"SentTimestamp": str(int((time.time() - 5) * 1000))},
    }
    check(messages.from_sqs(message), sent, 5)


def test_sqs_takes_ten_attributes(sent):
    full = {f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(9)}
    assert [*messages.sqs_attributes(full)][9:] == ["traceparent"]
    full["a9"] = full["a8"]
    assert messages.sqs_attributes(full) == full


def test_the_trace_header_of_aws():
    tracekit.configure(formats=[XRAY])
    header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    delivery = messages.from_sqs({"Attributes": {"AWSTraceHeader": header}})
    assert delivery.context.trace_id == "5759e988bd862e3fe1be46a994272793"


@pytest.mark.parametrize("wrong", [{}, {"MessageAttributes": 7}, {"Attributes": {"SentTimestamp": "now"}}])
def test_messages_of_another_shape_have_no_context(wrong):
    assert (messages.from_sqs(wrong).context, messages.from_sqs(wrong).waited_s) == (None, 0)
    for headers in (7, "text", [7], [("traceparent", 7)], {"traceparent": b"\xff" * 100_000}):
        assert messages.from_kafka(SimpleNamespace(headers=headers, timestamp="now")).context is None


def test_the_span_of_a_delivery_is_a_child_of_the_sender(exporter):
    with tracekit.span("send", kind="producer"):
        record = SimpleNamespace(headers=messages.kafka_headers(), timestamp=None)
    with tracekit.span("of the worker"), messages.from_kafka(record).span("process"):
        pass
    assert span_tree(exporter.spans) == "send\n  process\nof the worker"
