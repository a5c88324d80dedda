"""RED metrics: the rate, errors and duration of requests, from finished spans, for OTLP and for Prometheus.

    metrics = tracekit.metrics.RedMetrics(OTLPExporter(), push=tracekit.metrics.OTLPMetrics())
    tracekit.configure(service="shop", exporter=metrics)

Each histogram of durations holds all three: its count is the rate, its series with ``error.type`` are the errors.
"""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Unpack

from ._arguments import bounded_timeout
from ._core.checks import check_above_0, check_int
from ._core.records import Account
from ._environment import Environment, say, whole
from ._export.notices import Notices, describe
from ._export.stand_ins import account_of
from ._metrics.instruments import Table
from ._metrics.otlp import points_of, request_of
from ._metrics.text import text_of
from .exporters._front import Front
from .exporters._otlp.background import Background
from .exporters._otlp.client import Client, Collector
from .exporters._otlp.json import encode_json
from .exporters._otlp.messages import METRICS, encode_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._core.span import Span
    from ._export.exporter import Exporter
    from ._metrics.otlp import Point

__all__ = ["OPENMETRICS", "PROMETHEUS", "OTLPMetrics", "RedMetrics", "prometheus"]

# Content types of the two texts.
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_FAREWELL_S = 3.0


class OTLPMetrics:
    """A collector at *endpoint* for ``RedMetrics(push=)``; the path ``/v1/metrics`` is added to a URL without a path.

    *collector* are the arguments of ``OTLPExporter`` but those of the spool: *headers*, *timeout_s*, *compression*,
    *certificate*, *client_certificate*, *client_key*, *protocol*, *insecure* and *environ*. Their defaults, and that of
    *endpoint*, are OpenTelemetry's variables, those for metrics before those for all signals; that of *interval_s*, the
    seconds between two requests, is ``OTEL_METRIC_EXPORT_INTERVAL``, or 60. Counts are cumulative.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        interval_s: float | None = None,
        **collector: Unpack[Collector],
    ) -> None:
        self._client = Client("metrics", endpoint, collector)
        self.endpoint = self._client.endpoint
        if interval_s is None:
            environment = Environment(collector.get("environ"))
            interval_s = environment.value("OTEL_METRIC_EXPORT_INTERVAL", whole(1, 86_400_000), 60_000) / 1000
            say(environment.wrong.values())
        check_above_0("interval_s", interval_s, 86_400)
        self.interval_s = interval_s
        self.failed = 0  # data points that were lost

    def _send(self, points: Sequence[Point], resource: dict[str, Any], deadline: float) -> None:
        """Send *points*, retrying for ``timeout_s``, and until *deadline* on the monotonic clock."""

        def encode(part: Sequence[Point]) -> bytes:
            request = request_of(part, resource)
            return encode_json(request) if self._client.protocol == "http/json" else encode_message(request, METRICS)

        deadline = min(time.monotonic() + self._client.timeout_s, deadline)
        self.failed += self._client.deliver(points, encode, deadline, "data points")


class RedMetrics(Front):
    """An exporter that measures spans, and hands them to *exporter*, if there is one.

    Server, client, producer and consumer spans are measured as OpenTelemetry's semantic conventions name the metrics:
    ``http.server.request.duration``, ``http.client.request.duration``, ``rpc.server.call.duration``,
    ``rpc.client.call.duration``, ``db.client.operation.duration``, ``messaging.client.operation.duration`` and
    ``messaging.process.duration``; those that fit none of them as ``traces.span.metrics.duration``, and with *internal*
    internal spans, too.

    *buckets* are "explicit", with the boundaries of the conventions, "exponential", or boundaries in seconds. *push*
    sends all series to a collector; ``prometheus()`` returns them as text. Measuring is done by the exporting thread,
    not by the program. At most *max_series* series of one metric are kept; further ones are counted in a series with
    ``otel.metric.overflow``.

    Sampled spans count for those that were not: see ``tracekit.adjusted_count()``. Put it outside a ``TailSampler``,
    to measure all spans. After a fork, the child begins anew.
    """

    def __init__(
        self,
        exporter: Exporter | None = None,
        *,
        push: OTLPMetrics | None = None,
        buckets: str | Sequence[float] = "explicit",
        internal: bool = False,
        max_series: int = 2000,
    ) -> None:
        global _latest
        self.exporter = exporter
        self._push = push
        self._bounds = _bounds(buckets)
        self._is_exponential = buckets == "exponential"
        self._internal = internal
        check_int("max_series", max_series, 2)
        self._max_series = max_series
        self._notices = Notices()
        self._check_process()
        _latest = self

    def _forget(self) -> None:
        # Of the table; never held while anything else is waited for. Reentrant: a signal handler may interrupt its holder.
        self._lock = threading.RLock()
        self._table = Table(self._bounds, self._is_exponential, self._internal, self._max_series)
        self._pushed_ns = 0
        if self._push is not None:
            self._push._client.adopted()
        self._begin()

    def _begin(self) -> None:
        self._background: Background | None = None
        if self._push is not None:
            self._background = Background(self._push_all, self._push.interval_s, "tracekit-metrics")

    def export(self, spans: Sequence[Span]) -> None:
        """Measure *spans* and hand them over."""
        self._check_process()
        with self._lock:
            for span in spans:
                try:
                    self._table.add(span)
                except Exception as error:  # must not cost the spans
                    self._notices.say("error", "measure", "a span is not measured: %s (reported once)", describe(error))
        if self._background is not None:
            self._background.notify()
        if self.exporter is not None:
            self.exporter.export(spans)

    def prometheus(self, *, openmetrics: bool = False) -> str:
        """Return all series as text for a scrape of Prometheus; in OpenMetrics they have exemplars."""
        self._check_process()
        with self._lock:
            return text_of(self._table, openmetrics)

    def _push_all(self) -> bool:
        """Send all series; return whether there are any, to be sent again after the interval."""
        if self._push is None or self._background is None:
            return False
        now_ns = time.time_ns()
        with self._lock:
            points = points_of(self._table, now_ns, self._pushed_ns)
            resource = dict(self._table.resource)
        self._pushed_ns = now_ns
        if points:
            self._push._send(points, resource, self._background.deadline)
        return bool(points)

    def flush(self, timeout_s: float) -> bool:
        """Send all series now, and have the exporter deliver its spans. *timeout_s* is as for ``tracekit.flush()``."""
        timeout_s = bounded_timeout(timeout_s, 0.0)
        self._check_process()
        deadline = time.monotonic() + timeout_s
        is_done = super().flush(timeout_s)
        if self._background is not None and self._table.instruments:
            is_done = self._background.flush(max(0.0, deadline - time.monotonic())) and is_done
        return is_done

    def account(self) -> Account:
        """Return the exporter's account."""
        return Account() if self.exporter is None else account_of(self.exporter)

    def hurry(self) -> None:
        """Stop waiting for retries."""
        self._check_process()
        if self._push is not None:
            self._push._client.is_late.set()
        super().hurry()

    def shutdown(self) -> None:
        """Send all series for the last time, for at most 3 s, and close the exporter."""
        self._check_process()
        if self._background is not None and self._push is not None:
            self._push._client.is_late.set()
            if self._table.instruments:
                self._background.close(_FAREWELL_S)
            self._push._client.close()
            self._push._client.begin()
            self._begin()
        if self.exporter is not None:
            self.exporter.shutdown()


_latest: RedMetrics | None = None


def prometheus(*, openmetrics: bool = False) -> str:
    """Return the text of the ``RedMetrics`` that was made last, for a scrape; an empty one if there is none.

    Its content type is ``PROMETHEUS``, or with *openmetrics* ``OPENMETRICS``.
    """
    if _latest is None:
        return "# EOF\n" if openmetrics else ""
    return _latest.prometheus(openmetrics=openmetrics)


def _bounds(buckets: Any) -> tuple[float, ...] | None:
    if isinstance(buckets, str):
        if buckets not in ("explicit", "exponential"):
            raise ValueError(f'buckets must be "explicit", "exponential" or numbers: {buckets[:64]!a}')
        return None
    bounds = tuple(buckets)
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds):
        raise TypeError("buckets must hold numbers")
    if not 0 < len(bounds) <= 200 or not all(low < high for low, high in pairwise((0, *bounds, float("inf")))):
        raise ValueError("buckets must be 1 to 200 rising finite numbers above 0")
    return tuple(map(float, bounds))
