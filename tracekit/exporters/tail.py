"""Tail sampling in one process: whole local traces with an error, slow ones, and a consistent share of the others.

How it works: a local trace is a local root, a span whose parent is None or remote, with all spans under it in this
process. Spans arrive in the order in which they end, children mostly first. Connected spans wait in one group, which is
found by the id of each of them and by the id of the one span above them that has not arrived yet. An arriving span
joins the group that awaits it and the group of its parent; a local root decides its group. The decision is remembered
by span id for later spans.
"""

from __future__ import annotations

import operator
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from .._arguments import check_exporter
from .._core.changes import retrace
from .._core.checks import check_bool, check_int, nanoseconds
from .._core.records import Account
from .._core.tracestate import make_state
from .._export.notices import Notices
from .._sampling import Ratio, randomness, threshold_text
from ._front import Front

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.span import Span
    from .._core.tracestate import TraceState
    from .._export.exporter import Exporter

__all__ = ["TailSampler"]

_BATCH = 2048  # the largest batch that an exporter receives

# The least threshold for the spans of a group, 0 to keep theirs; None to discard the spans.
_Decision: TypeAlias = int | None
_AS_THEY_ARE = 0


class _Group:
    """Connected spans of one local trace, and the id of the span above them, which is *awaited*."""

    __slots__ = ("awaited", "has_error", "joined", "since_ns", "spans")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.spans: list[Span] = []
        self.has_error = False
        self.awaited = b""
        self.joined: _Group | None = None  # the group that this one was merged into


class TailSampler(Front):
    """Pass whole local traces on to *exporter*: traces with an error, slow traces, and a share of the others.

    A local trace, a span whose parent is None or remote with all spans under it in this process, is decided when that
    local root has ended. It is kept if a span has the status "error" (*keep_errors*), if the local root took longer
    than *keep_slower_than_s*, or else with *probability*, by the trace's own randomness: every service with the same or
    a larger probability keeps the same traces. Several local roots of one trace, such as two requests to this process,
    are decided separately. Spans that end after their local root follow its decision.

    Adjusted counts stay right: spans that are kept by probability get its threshold (``ot=th``) unless they have a
    larger one; a missing threshold counts as 0. Other spans are not changed.

    At most *max_spans* are held, none for longer than *max_wait_s* as far as calls arrive. Beyond either limit the
    oldest group is decided early by the spans that have arrived, and counted in ``decided_early``; a group that is kept early for
    an error, or for waiting longer than a slow trace takes, also keeps the rest of its trace. *clock* returns monotonic
    nanoseconds.

    ``export()`` does not raise. Spans that *exporter* rejects, or that cannot be inspected, are counted as failed in
    ``account()`` and logged once per cause.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        probability: float = 0.1,
        keep_errors: bool = True,
        keep_slower_than_s: float | None = None,
        max_spans: int = 20_000,
        max_wait_s: float = 30.0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        check_exporter(exporter)
        check_bool("keep_errors", keep_errors)
        check_int("max_spans", max_spans, 1)
        self.exporter: Exporter = exporter
        self.probability = probability
        self._threshold = Ratio(probability).threshold
        self.keep_errors = keep_errors
        self.keep_slower_than_s = keep_slower_than_s
        self._slow_ns = None if keep_slower_than_s is None else nanoseconds("keep_slower_than_s", keep_slower_than_s)
        self.max_spans = max_spans
        self.max_wait_s = max_wait_s
        self._wait_ns = nanoseconds("max_wait_s", max_wait_s)
        self._clock = clock
        self._notices = Notices()
        self._check_process()

    def __repr__(self) -> str:
        return f"TailSampler({self.exporter!r}, probability={self.probability})"

    def export(self, spans: Sequence[Span]) -> None:
        """Pass on the spans that are decided and kept now, and hold the others."""
        self._check_process()
        now_ns = self._clock()
        for span in spans:
            try:
                self._arrive(span, now_ns)
            except Exception as error:
                self._failed += 1
                self._notices.lost(self, error, 1)
            while self._held > self.max_spans:
                self._decide_early(next(iter(self._oldest)), now_ns)
        self._decide_overdue(now_ns)
        self._forward()

    def flush(self, timeout_s: float) -> bool:
        """Decide spans that were held for too long, pass on those that are kept, and flush *exporter* if it can.

        *timeout_s* is as for ``tracekit.flush()``.
        """
        self._check_process()
        self._decide_overdue(self._clock())
        self._forward()
        return super().flush(timeout_s)

    def shutdown(self) -> None:
        """Decide all held spans early, pass on those that are kept, and shut *exporter* down."""
        self._check_process()
        now_ns = self._clock()
        while self._oldest:
            self._decide_early(next(iter(self._oldest)), now_ns)
        self._forward()
        self.exporter.shutdown()

    def account(self) -> Account:
        """Return the numbers of held, failed and discarded spans, including the account of *exporter*."""
        self._check_process()
        return Account(*map(operator.add, self._account, self._ask_account(self.exporter)))

    def _forget(self) -> None:
        self._groups: dict[bytes, _Group] = {}  # by the ids of waiting and awaited spans
        self._oldest: OrderedDict[_Group, None] = OrderedDict()  # the same, oldest first
        self._decided: OrderedDict[bytes, _Decision] = OrderedDict()  # by span id, least recently used first
        self._ready: list[Span] = []
        self._held = self._failed = self._unsampled = self.decided_early = 0
        self._account = Account()  # as of the end of the last call
        self._theirs = Account()

    def _arrive(self, span: Span, now_ns: int) -> None:
        # First everything in which a span may raise, then the changes.
        id, parent, took_ns = span.context.id, span.parent, (span.end_ns or 0) - span.start_ns
        is_error = self.keep_errors and span.status.code == "error"
        group = self._group(id) or _Group(now_ns)
        group.spans.append(span)
        group.has_error = group.has_error or is_error
        self._held += 1
        if parent is None or parent.is_remote:
            early = self._decided.get(id)  # the group that awaited it may have been kept early
            self._release(group, self._decide(group, took_ns) if early is None else early)
        elif id in self._decided:
            decision = self._decided[id]
            self._release(group, decision)
            if decision == _AS_THEY_ARE:
                self._remember(parent.id, decision)
        elif parent.id in self._decided:
            self._decided.move_to_end(parent.id)
            self._release(group, self._decided[parent.id])
        else:
            self._groups[id] = group
            self._wait(group, parent.id)

    def _group(self, id: bytes) -> _Group | None:
        """Return the group that contains or awaits the span with this id."""
        group = self._groups.get(id)
        if group is not None and group.joined is not None:
            while group.joined is not None:
                if group.joined.joined is not None:
                    group.joined = group.joined.joined  # halves the path for the next call
                group = group.joined
            self._groups[id] = group
        return group

    def _wait(self, group: _Group, parent: bytes) -> None:
        """Merge *group* with the group that contains or awaits its *parent*, or else have it await *parent*."""
        other = self._group(parent)
        if other is None or other is group:  # the latter if the ids form a circle
            group.awaited = parent
            self._groups[parent] = group
            self._oldest.setdefault(group)
        else:
            awaited = other.awaited
            if group.since_ns < other.since_ns:
                group, other = other, group
            # The smaller list is appended to the larger one: else a deep trace would be copied at every level.
            small, large = sorted((group.spans, other.spans), key=len)
            large += small
            other.spans, group.spans = large, []
            other.has_error = other.has_error or group.has_error
            other.awaited = awaited
            group.joined = other
            self._oldest.pop(group, None)

    def _decide(self, group: _Group, took_ns: int) -> _Decision:
        if group.has_error:
            return _AS_THEY_ARE
        if self._slow_ns is not None and took_ns > self._slow_ns:
            return _AS_THEY_ARE
        return self._threshold if randomness(group.spans[0].context) >= self._threshold else None

    def _decide_overdue(self, now_ns: int) -> None:
        while self._oldest:
            group = next(iter(self._oldest))
            if now_ns - group.since_ns < self._wait_ns:
                return
            self._decide_early(group, now_ns)

    def _decide_early(self, group: _Group, now_ns: int) -> None:
        del self._groups[group.awaited]
        self.decided_early += len(group.spans)
        # The local root has lasted at least as long as the span has waited for its parent.
        decision = self._decide(group, now_ns - group.since_ns)
        self._release(group, decision)
        if decision == _AS_THEY_ARE:
            self._remember(group.awaited, decision)

    def _release(self, group: _Group, decision: _Decision) -> None:
        self._oldest.pop(group, None)
        self._held -= len(group.spans)
        for span in group.spans:
            id = span.context.id
            self._groups.pop(id, None)
            self._remember(id, decision)
        if decision is None:
            self._unsampled += len(group.spans)
            return
        if decision:
            _raise_threshold(group.spans, decision)
        self._ready += group.spans

    def _remember(self, id: bytes, decision: _Decision) -> None:
        self._decided[id] = decision
        if len(self._decided) > self.max_spans:
            self._decided.popitem(last=False)

    def _forward(self) -> None:
        ready, self._ready = self._ready, []
        for start in range(0, len(ready), _BATCH):
            self._hand_over(self.exporter, ready[start : start + _BATCH])
        self._account = Account(self._held, self._failed, self._unsampled)


def _raise_threshold(spans: list[Span], threshold: int) -> None:
    entry = f"ot=th:{threshold_text(threshold)}"
    raised: dict[str, TraceState] = {}  # usually one for the whole trace
    for span in spans:
        context = span.context
        state = context.state
        if state.sampling()[0] < threshold:
            text = str(state)
            if text not in raised:
                raised[text] = make_state(state.decided(entry))
            retrace(span, context.replace(state=raised[text]))
