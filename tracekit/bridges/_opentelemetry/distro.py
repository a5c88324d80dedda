"""``opentelemetry-instrument --distro tracekit program``: tracekit configured from the environment, and the bridge."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined, unused-ignore]


class Distro(BaseDistro):  # type: ignore[misc, unused-ignore]
    """Configures tracekit from the ``OTEL_*`` variables and installs the bridge, before the instrumentations load."""

    def _configure(self, **kwargs: Any) -> None:
        import tracekit

        from ..opentelemetry import install

        # A configurator of another distribution would set up its SDK too.
        os.environ.setdefault("OTEL_PYTHON_CONFIGURATOR", "tracekit")
        tracekit.configure()
        install()


def distro() -> Distro | None:
    """Return tracekit's distribution if ``OTEL_PYTHON_DISTRO`` names it, else None.

    Without the variable OpenTelemetry takes the first one that it finds, and tracekit must not be chosen by accident.
    """
    return Distro() if os.environ.get("OTEL_PYTHON_DISTRO") == "tracekit" else None
