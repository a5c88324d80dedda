"""Both forms' spans and scopes are driven through the same life, at random, and must look the same all the way."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import tracekit
from tracekit import Labels, Limits, TraceState, _configure
from tracekit.testing import CountingIds

from .tools.vectors import TWINS

NOW = 1_700_000_000_000_000_000
REMOTE = {
    "sampled": {"trace_id": "a" * 32, "span_id": "b" * 16, "flags": 0xFF, "is_remote": True},
    "unsampled": {"trace_id": "c" * 32, "span_id": "d" * 16, "flags": 2, "is_remote": True},
    "deferred": {
        "trace_id": "f" * 32,
        "span_id": "b" * 16,
        "deferred": True,
        "state": TraceState.parse("v=1,ot=th:4;rv:00000000000002"),
    },
    "labels only": {"labels": Labels({"l": "1"})},
    "trace id only": {"trace_id": "e" * 32},
    "decided, no ids": {"flags": 1},
    "full": {
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "flags": 1,
        "state": TraceState.parse("v=1,w=2"),
        "labels": Labels({"r": "1", "s": "2"}),
    },
}


class Sampler:
    def sample(self, randomness, name, kind, attributes):
        if "raise" in repr(str.__str__(name)):
            raise ValueError(randomness)
        return randomness % 2, "vendor=x" if attributes else "no state"


TRACERS = {
    "all": {"recording": True},
    "none": {"recording": True, "threshold": 1 << 56},
    "half": {"recording": True, "threshold": 3, "state": "ot=th:8"},
    "asked": {"recording": True, "sampler": Sampler()},
    "small": {"recording": True, "limits": Limits(2, 2, 2, 3), "resource": {"service.name": "small"}},
    "nothing": {"recording": True, "limits": Limits(0, 0, 0, 0)},
    "off": {},
}


class Text(str):
    """A subclass, which must become plain."""


class RaisingText(str):
    def _raise(self, *_):
        raise RuntimeError("hostile")

    __len__ = __getitem__ = __str__ = __hash__ = __eq__ = __iter__ = _raise


class RaisingMapping(dict):
    def items(self):
        raise RuntimeError("hostile")


class Quiet(Exception):
    pass


class RaisingStr(Exception):
    def __str__(self):
        raise RuntimeError("hostile")


EXCEPTIONS = [
    lambda: None,
    lambda: Quiet("message"),
    lambda: Quiet(),
    lambda: RaisingStr(),
    lambda: KeyboardInterrupt(),
    lambda: GeneratorExit(),
    lambda: SystemExit(0),
    lambda: SystemExit(1),
    lambda: ExceptionGroup("g", [Quiet("a"), ValueError("b")]),
    lambda: BaseExceptionGroup("g", [GeneratorExit()]),
]

HOSTILE = "hostile"  # Hypothesis hashes what it draws, so the real thing comes later

names = st.sampled_from(["job", "raise", "", "名\ud800", "x" * 100, Text("text"), HOSTILE])
wrong = st.sampled_from([None, 5, b"bytes", ["list"]])
keys = st.sampled_from(["a", "b", "c", "d", Text("e"), HOSTILE])
values = st.sampled_from(
    [
        "v",
        "long value",
        b"bytes",
        True,
        5,
        2**100,
        1.5,
        None,
        object(),
        Text("text"),
        HOSTILE,
        (1, "a", None),
        [1, [2, [3, [4]]]],
        {"k": "v", 5: 6},
        {"k": object()},
        [object(), "long value"],
    ]
)
attributes = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["a", "b", "c", Text("d")]), values, max_size=4),
    st.sampled_from([5, "text", [("a", 1)], {1: 1}, {"a": 1, b"b": 2}, RaisingMapping(a=1)]),
)
times = st.one_of(st.none(), st.sampled_from([NOW, NOW - 5, NOW + 5, 0, -1, 2**63 - 1, 1.5, "now", True]))
at = st.integers(0, 3)
which = st.integers(0, 9)


def real(drawn):
    """What *drawn* stands for."""
    return RaisingText("hostile text") if drawn == HOSTILE else drawn


class FormMachine(RuleBasedStateMachine):
    """Everything is done to every form; what a form returned, raised or shows is compared by what it looks like."""

    @initialize()
    def start(self):
        gc.freeze()  # so that collecting what a life leaves behind is quick
        self.contexts = [{name: contextvars.Context() for name in TWINS}]
        self.spans = {name: [] for name in TWINS}
        self.scopes = {name: [] for name in TWINS}
        self.now = NOW
        self.counts = {}
        for name, form in TWINS.items():
            form.set_ids(CountingIds())
            form.set_clock(lambda: self.now)
            form.buffer.capacity, form.buffer.is_open, form.buffer.wake = 5, True, None
            form.buffer.drain()
            self.counts[name] = form.buffer.counts()
        self.use_tracer("all")

    def teardown(self):
        if not hasattr(self, "contexts"):
            return
        self.drain()
        self.spans = self.scopes = self.contexts = None
        gc.collect()
        gc.unfreeze()
        for name, form in TWINS.items():
            form.set_ids(None)
            form.set_clock(None)
            form.set_tracer(form.Tracer())
            form.buffer.capacity, form.buffer.is_open = 16384, False
            # As in the child of a fork: all counts are 0 again, in the pipeline too.
            (_configure._after_fork if name == tracekit.IMPLEMENTATION else form.after_fork)()

    # ---- comparing

    def seen(self, name, value):
        """*value* in a form that is equal for all forms."""
        form = TWINS[name]
        if isinstance(value, form.Span):
            found = [index for index, span in enumerate(self.spans[name]) if span is value]
            # An abandoned span lives on in the plain form's buffer; the compiled form's has a copy of it.
            return ("span", found[0]) if found else None
        if isinstance(value, form.SpanContext):
            labels = value.labels.members
            return (value.id, value.flags, value.deferred, str(value.state), labels, value.is_remote, value.is_valid)
        if isinstance(value, Mapping) and not isinstance(value, Labels):
            return {key: self.seen(name, item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple([self.seen(name, item) for item in value])
        if isinstance(value, form.Scope):
            return "scope"
        return str.__str__(value) if isinstance(value, str) else value

    def both(self, do, at=0):
        """Do *do* with every form in one of the Contexts, and demand that all come out the same."""
        context = self.contexts[at % len(self.contexts)]
        outcomes, results = [], []
        for name, form in TWINS.items():
            try:
                result = context[name].run(do, name, form)
            except (TypeError, ValueError, RuntimeError) as error:
                result = None
                outcomes.append(type(error))  # of two wrong arguments each form may name another
            else:
                outcomes.append(self.seen(name, result))
            results.append(result)
        assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
        return results

    def pick(self, which):
        count = len(next(iter(self.spans.values())))
        return None if not count else which % count

    # ---- making

    @rule(
        name=st.one_of(names, wrong), at=at, attributes=attributes, start_ns=times, links=which, kind=st.integers(0, 6)
    )
    def make(self, name, at, attributes, start_ns, links, kind):
        kinds = ["internal", "server", "client", "producer", "consumer", "nonsense", 5]
        self.add(at, name, kind=kinds[kind], attributes=attributes, start_ns=start_ns, links=self.links(links))

    @rule(at=at)
    def make_plainly(self, at):
        self.add(at, "plain")

    @rule(at=at, parent=st.one_of(which, st.sampled_from(["root", "wrong", *REMOTE])))
    def make_under(self, at, parent):
        if isinstance(parent, int) and self.pick(parent) is None:
            return
        self.add(at, "under", parent=parent)

    def links(self, which):
        """A function that makes what is linked to, for one form."""

        def make(name, form):
            context = form.SpanContext(**REMOTE["full"])
            spans = self.spans[name][:1]
            choices = [
                (),
                [context],
                [form.Link(context, {"a": "long value"})],
                [form.Link(context, {1: 1})],
                spans,
                [form.Link(span, {"a": 1}) for span in spans],
                [context, 5],
                5,
                "text",
                iter([context] * 3),
            ]
            return choices[which % len(choices)]

        return make

    def add(self, at, span_name, *, parent=None, links=None, **arguments):
        def make(name, form):
            chosen = parent
            if isinstance(parent, int):
                chosen = self.spans[name][self.pick(parent)]
            elif parent == "root":
                chosen = form.ROOT
            elif parent in REMOTE:
                chosen = form.SpanContext(**REMOTE[parent])
            made = () if links is None else links(name, form)
            return form.span(real(span_name), parent=chosen, links=made, **arguments)

        made = self.both(make, at)
        if None not in made:
            for spans, span in zip(self.spans.values(), made, strict=True):
                spans.append(span)

    # ---- living

    def each(self, which, do, at=0):
        index = self.pick(which)
        if index is not None:
            self.both(lambda name, _: do(self.spans[name][index]), at)

    @rule(which=which, at=at)
    def enter(self, which, at):
        self.each(which, lambda span: span.__enter__(), at)

    @rule(which=which, at=at, make=st.sampled_from(EXCEPTIONS))
    def leave(self, which, at, make):
        def leave(span):
            exc = make()
            return span.__exit__(None if exc is None else type(exc), exc, None)

        self.each(which, leave, at)

    @rule(which=which, end_ns=times)
    def end(self, which, end_ns):
        self.each(which, lambda span: span.end(end_ns))

    @rule(which=which, key=st.one_of(keys, wrong), value=values)
    def set_attribute(self, which, key, value):
        self.each(which, lambda span: span.set_attribute(real(key), real(value)))

    @rule(which=which, attributes=attributes)
    def set_attributes(self, which, attributes):
        self.each(which, lambda span: span.set_attributes(attributes))

    @rule(which=which, name=st.one_of(names, wrong), attributes=attributes, time_ns=times)
    def add_event(self, which, name, attributes, time_ns):
        self.each(which, lambda span: span.add_event(real(name), attributes, time_ns=time_ns))

    @rule(which=which, other=which, kind=st.integers(0, 3), attributes=attributes)
    def add_link(self, which, other, kind, attributes):
        index = self.pick(which)
        if index is None:
            return

        def link(name, form):
            span = self.spans[name][self.pick(other)]
            choices = [span, span.context, form.Link(span.context, {"a": 1}), "wrong"]
            return self.spans[name][index].add_link(choices[kind], attributes)

        self.both(link)

    @rule(which=which, code=st.sampled_from(["unset", "ok", "error", "cancelled", "nonsense", 2]), description=names)
    def set_status(self, which, code, description):
        self.each(which, lambda span: span.set_status(code, real(description)))

    @rule(which=which, make=st.sampled_from(EXCEPTIONS), attributes=attributes)
    def record_exception(self, which, make, attributes):
        self.each(which, lambda span: span.record_exception(make(), attributes))

    @rule(which=which, name=st.one_of(names, wrong))
    def update_name(self, which, name):
        self.each(which, lambda span: span.update_name(real(name)))

    @rule(seconds=st.integers(-3, 3))
    def tick(self, seconds):
        self.now += seconds * 1_000_000_000

    # ---- scopes

    def open(self, make, at):
        opened = self.both(make, at)
        if None not in opened:
            for scopes, scope in zip(self.scopes.values(), opened, strict=True):
                scopes.append(scope)
            self.both(lambda name, _: self.scopes[name][-1].__enter__(), at)

    @rule(which=which, at=at)
    def use_span(self, which, at):
        index = self.pick(which)
        if index is not None:
            self.open(lambda n, form: form.span_scope(self.spans[n][index]), at)

    @rule(remote=st.sampled_from([None, *REMOTE]), at=at)
    def use_context(self, remote, at):
        def make(_, form):
            return form.context_scope(None if remote is None else form.SpanContext(**REMOTE[remote]))

        self.open(make, at)

    @rule(key=st.sampled_from("klr"), value=st.sampled_from(["", "1", "名"]), at=at)
    def use_labels(self, key, value, at):
        self.open(lambda _, form: form.label_scope(Labels({key: value})), at)

    @rule(which=which, at=at)
    def close(self, which, at):
        count = len(next(iter(self.scopes.values())))
        if count:
            self.both(lambda name, _: self.scopes[name][which % count].__exit__(None, None, None), at)

    @rule(which=which, at=at)
    def open_again(self, which, at):
        count = len(next(iter(self.scopes.values())))
        if count:
            self.both(lambda name, _: self.scopes[name][which % count].__enter__(), at)

    @rule(at=at)
    def spawn(self, at):
        if len(self.contexts) < 4:
            spawner = self.contexts[at % len(self.contexts)]
            self.contexts.append({name: context.run(contextvars.copy_context) for name, context in spawner.items()})

    @rule(at=at)
    def end_task(self, at):
        if len(self.contexts) > 1:
            del self.contexts[at % len(self.contexts)]
            # When a closed scope lets go of what was under it, once its task is gone, is each form's own affair.
            for scopes in self.scopes.values():
                scopes.clear()
            gc.collect()

    # ---- around

    @rule(tracer=st.sampled_from(sorted(TRACERS)))
    def use_tracer(self, tracer):
        for form in TWINS.values():
            form.set_tracer(form.Tracer(**TRACERS[tracer]))

    @rule()
    def forget_the_oldest(self):
        if self.pick(0) is not None:
            for spans in self.spans.values():
                del spans[0]
            gc.collect()

    @rule()
    def drain(self):
        self.both(lambda name, form: tuple([self.look(name, span) for span in form.buffer.drain()]))

    @rule()
    def fork(self):
        for name, form in TWINS.items():
            form.after_fork()
            self.counts[name] = form.buffer.counts()

    # ---- what must be the same

    def look(self, name, span):
        return self.seen(
            name,
            (
                (span.name, type(span.name), span.kind, span.context, span.parent),
                (span.start_ns, span.end_ns, span.ended, span.is_recording, span.status, span.resource),
                (span.attributes, span.events, span.links),
                (span.dropped_attributes, span.dropped_events, span.dropped_links, span.truncated_values),
                repr(span),
            ),
        )

    @invariant()
    def all_spans_look_the_same(self):
        looks = [[self.look(name, span) for span in spans] for name, spans in getattr(self, "spans", {}).items()]
        for look in looks:
            assert look == looks[0]

    @invariant()
    def the_same_is_current_in_every_task(self):
        for index in range(len(getattr(self, "contexts", ()))):
            self.both(lambda _, form: (form.current_span(), form.current_context()), index)

    @invariant()
    def the_counts_are_the_same(self):
        if hasattr(self, "counts"):
            self.both(
                lambda name, form: tuple(
                    [now - then for now, then in zip(form.buffer.counts(), self.counts[name], strict=True)]
                )
            )


TestFormsOfSpans = FormMachine.TestCase
TestFormsOfSpans.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
