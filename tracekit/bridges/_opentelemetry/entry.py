"""The entry points that OpenTelemetry's API loads where a variable names tracekit.

``OTEL_PYTHON_CONTEXT`` is read while ``opentelemetry.context`` is half imported. The bridge imports that module, so it
is imported at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context.context import _RuntimeContext

if TYPE_CHECKING:
    from opentelemetry.context.context import Context

__all__ = ["LazyRuntimeContext", "propagator", "tracer_provider"]


class LazyRuntimeContext(_RuntimeContext):
    """The bridge's RuntimeContext, imported when it is first asked."""

    def attach(self, context: Context) -> Any:
        """Open a scope for *context*."""
        return _runtime().attach(context)

    def get_current(self) -> Context:
        """Return the view of the current scope."""
        current: Context = _runtime().get_current()
        return current

    def detach(self, token: Any) -> None:
        """Close the scope *token*."""
        _runtime().detach(token)


def tracer_provider() -> Any:
    """Install the bridge and return its provider, for ``OTEL_PYTHON_TRACER_PROVIDER=tracekit``."""
    from ..opentelemetry import install

    return install()


def propagator() -> Any:
    """Return a propagator over tracekit's formats, for ``OTEL_PROPAGATORS=tracekit``."""
    from .propagator import Propagator

    return Propagator()


def _runtime() -> Any:
    from .runtime import RUNTIME

    return RUNTIME
