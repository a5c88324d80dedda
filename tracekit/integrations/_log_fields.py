"""The fields of log records: ids of the current span, and the service."""

from __future__ import annotations

from typing import Any, Final

from .._configure import current_resource
from .._core.scopes import current_context

NAMES: Final = ("trace_id", "span_id", "sampled", "service.name")
DATADOG_NAMES: Final = ("dd.trace_id", "dd.span_id", "dd.service", "dd.env", "dd.version")
_MASK64: Final = (1 << 64) - 1


def log_fields(datadog: bool) -> dict[str, Any]:
    """Return ``trace_id`` and ``span_id``, hex, ``sampled``, a bool, and ``service.name``.

    Without a current context the ids are empty. *datadog* adds the names of Datadog's log correlation, ``dd.trace_id``
    and so on: ids in decimal, of the trace id the lower 64 bits, "0" for none.
    https://docs.datadoghq.com/tracing/other_telemetry/connect_logs_and_traces/opentelemetry/
    """
    resource, context = current_resource(), current_context()
    fields: dict[str, Any] = {"trace_id": "", "span_id": "", "sampled": False}
    if context is not None and context.is_valid:
        fields = {"trace_id": context.trace_id, "span_id": context.span_id, "sampled": context.sampled}
    fields["service.name"] = service = resource.get("service.name", "")
    if datadog:
        fields["dd.trace_id"] = str(int(fields["trace_id"] or "0", 16) & _MASK64)
        fields["dd.span_id"] = str(int(fields["span_id"] or "0", 16))
        fields["dd.service"] = service
        fields["dd.env"] = resource.get("deployment.environment.name", "")
        fields["dd.version"] = resource.get("service.version", "")
    return fields
