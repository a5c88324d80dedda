"""The entry point that ``OTEL_PYTHON_CONTEXT=tracekit`` selects.

OpenTelemetry loads it while ``opentelemetry.context`` is half imported. The bridge imports that module, so the bridge is
imported at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import context as _context

if TYPE_CHECKING:
    from opentelemetry.context.context import Context

_RuntimeContext: Any = getattr(_context, "_RuntimeContext", object)


class LazyRuntimeContext(_RuntimeContext):  # type: ignore[misc]
    """The bridge's RuntimeContext, imported when it is first asked."""

    def attach(self, context: Context) -> Any:
        return _runtime().attach(context)

    def get_current(self) -> Context:
        current: Context = _runtime().get_current()
        return current

    def detach(self, token: Any) -> None:
        _runtime().detach(token)


def _runtime() -> Any:
    from .runtime import RUNTIME

    return RUNTIME
