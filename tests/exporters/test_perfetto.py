"""Chrome's trace event format: slices of a thread nest, times are exact, arrows connect lanes and services."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.exporters._files.perfetto import write_perfetto
from tracekit.exporters.sqlite import StoredSpan

BASE = 1_700_000_000_123_456_789


def span(id, start, end, *, parent=None, service="shop", name=None, trace="t", **more):
    values = dict.fromkeys(StoredSpan._fields, 0) | {
        "trace_id": trace,
        "span_id": id,
        "parent_id": parent,
        "service": service,
        "name": name or id,
        "kind": "internal",
        "start_ns": BASE + start,
        "end_ns": BASE + end,
        "status": "unset",
        "description": "",
        "attributes": {},
        "events": [],
        "links": [],
    }
    return StoredSpan(**(values | more))


def written(*spans):
    file = io.StringIO()
    write_perfetto(sorted(spans, key=lambda span: span.start_ns), file)
    return json.loads(file.getvalue(), parse_float=str)


def slices(document):
    return {event["name"]: event for event in document["traceEvents"] if event["ph"] == "X"}


def nanoseconds(text):
    whole, _, part = text.partition(".")
    return int(whole) * 1000 + int(part)


def test_children_that_nest_share_the_lane_of_their_parent():
    found = slices(
        written(span("root", 0, 100), span("child", 10, 20, parent="root"), span("next", 20, 30, parent="root"))
    )
    assert {event["tid"] for event in found.values()} == {1}


def test_concurrent_children_have_lanes_and_arrows():
    document = written(span("root", 0, 100), span("a", 10, 50, parent="root"), span("b", 20, 60, parent="root"))
    found = slices(document)
    assert (found["a"]["tid"], found["b"]["tid"]) == (1, 2)
    start, finish = [event for event in document["traceEvents"] if event["ph"] in "sf"]
    assert (start["tid"], finish["tid"], start["id"]) == (1, 2, finish["id"])
    assert (start["ts"], finish["ts"]) == ("0.000", "0.020")


def test_a_child_that_outlives_its_parent_is_on_another_lane():
    found = slices(
        written(span("root", 0, 10), span("late", 5, 50, parent="root"), span("later", 12, 20, parent="root"))
    )
    assert found["late"]["tid"] != found["root"]["tid"]
    assert found["later"]["tid"] != found["late"]["tid"]


def test_a_child_that_starts_after_its_parent_on_the_same_lane_has_an_arrow():
    document = written(span("root", 0, 10), span("late", 12, 20, parent="root"))
    assert {event["tid"] for event in slices(document).values()} == {1}
    assert [event["ph"] for event in document["traceEvents"] if event["ph"] in "sf"] == ["s", "f"]


def test_a_lane_is_used_again():
    found = slices(written(*[span(str(at), at * 10, at * 10 + 9) for at in range(100)]))
    assert {event["tid"] for event in found.values()} == {1}


def test_services_are_processes_and_a_remote_child_has_an_arrow():
    document = written(span("call", 0, 10), span("serve", 2, 8, parent="call", service="stock"))
    names = {
        event["pid"]: event["args"]["name"] for event in document["traceEvents"] if event["name"] == "process_name"
    }
    assert names == {1: "shop", 2: "stock"}
    assert [event["pid"] for event in document["traceEvents"] if event["ph"] in "sf"] == [1, 2]


def test_links_are_arrows():
    document = written(span("a", 0, 5), span("b", 10, 20, links=[{"trace_id": "t", "span_id": "a", "attributes": {}}]))
    start, finish = [event for event in document["traceEvents"] if event["ph"] in "sf"]
    assert (start["ts"], finish["ts"], start["cat"]) == ("0.000", "0.010", "link")


def test_arrows_follow_their_slice_before_any_other_slice_of_the_lane():
    document = written(
        span("root", 0, 100, events=[{"name": "e", "time_ns": BASE, "attributes": {}}]),
        span("a", 0, 50, parent="root"),
        span("b", 20, 60, parent="root"),
    )
    phases = [event["ph"] + event["name"] for event in document["traceEvents"] if event["ph"] != "M"]
    assert phases == ["Xroot", "schild", "ie", "Xa", "Xb", "fchild"]


def test_an_event_names_its_span():
    document = written(span("root", 0, 9, events=[{"name": "e", "time_ns": BASE, "attributes": {"key": 1}}]))
    (event,) = [event for event in document["traceEvents"] if event["ph"] == "i"]
    assert event["args"] == {"span_id": "root", "attributes.key": 1}


@pytest.mark.parametrize("text", ["C:\\", "\\\\", '\\"\\', "\\\\\\", "a\\b", '"', "\\u005c", "\ud800\\"])
def test_no_text_ends_with_an_escaped_backslash_nor_is_escaped_beyond_need(text):
    file = io.StringIO()
    write_perfetto([span("root", 0, 1, name=text, attributes={text: [text, {text: text}]}, service=text)], file)
    assert '\\\\"' not in file.getvalue().replace('\\\\\\"', "")
    named, _, event = json.loads(file.getvalue())["traceEvents"]
    assert named["args"]["name"] == event["name"] == text
    assert event["args"][f"attributes.{text}"] == [text, {text: text}]


def test_text_is_written_as_utf_8():
    file = io.StringIO()
    write_perfetto([span("root", 0, 1, name="\u00fc\U0001f600")], file)
    assert '"\u00fc\U0001f600"' in file.getvalue()


def test_times_keep_their_nanoseconds():
    document = written(
        span("root", 0, 86400 * 10**9 + 1, events=[{"name": "e", "time_ns": BASE + 1, "attributes": {}}])
    )
    assert slices(document)["root"]["dur"] == "86400000000.001"
    assert document["otherData"]["start_unix_ns"] == str(BASE)
    (event,) = [event for event in document["traceEvents"] if event["ph"] == "i"]
    assert event["ts"] == "0.001"


def test_errors_attributes_and_hostile_text():
    hostile = '</script>"\u2028\ud800'
    document = written(
        span("root", 0, 1, name=hostile, status="error", description="no", attributes={hostile: hostile})
    )
    event = slices(document)[hostile]
    assert event["cat"] == "internal,error"
    assert event["args"]["status"] == "error: no"
    assert event["args"][f"attributes.{hostile}"] == hostile


@pytest.mark.parametrize("spans", [(), (span("a", 0, 5, parent="b"), span("b", 0, 5, parent="a")), (span("a", 5, 0),)])
def test_nothing_circles_and_backward_times(spans):
    assert len(slices(written(*spans))) == len(spans)


def test_a_deep_trace():
    deep = [span(str(at), at, 10_000 - at, parent=str(at - 1)) for at in range(3000)]
    assert {event["tid"] for event in slices(written(*deep)).values()} == {1}


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 12), st.sampled_from("xy")),
        max_size=12,
    )
)
def test_slices_of_a_lane_nest(drawn):
    spans = [
        span(str(at), min(a, b), max(a, b), parent=str(parent), service=service)
        for at, (a, b, parent, service) in enumerate(drawn)
    ]
    lanes = {}
    for event in slices(written(*spans)).values():
        start = nanoseconds(event["ts"])
        lanes.setdefault((event["pid"], event["tid"]), []).append((start, start + nanoseconds(event["dur"])))
    assert sum(map(len, lanes.values())) == len(spans)
    for lane in lanes.values():
        for a in lane:
            for b in lane:
                assert not a[0] < b[0] < a[1] < b[1]
