"""Trace ids in loguru's records, in ``extra``: ``trace_id``, ``span_id``, ``sampled`` and ``service.name``.

tracekit.instrument("loguru")
logger.add(sys.stderr, format="{level} {extra[trace_id]} {message}")
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from loguru import logger

from ._log_fields import log_fields
from ._patch import check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patcher", "instrument", "uninstrument"]

_check = functools.partial(check_whole, "loguru", "logger.patch(Patcher())")


class Patcher:
    """A patcher for ``logger.configure(patcher=)`` or ``logger.patch()``; *datadog* adds ``dd.trace_id`` and so on.

    Keys that ``bind()`` or ``contextualize()`` have set win. *then* is called afterwards, with the record.
    """

    def __init__(self, *, datadog: bool = False, then: Callable[[Any], object] | None = None) -> None:
        self.datadog = datadog
        self.then = then

    def __call__(self, record: Any) -> None:
        """Add the fields to ``record["extra"]``."""
        try:
            extra = record["extra"]
            for key, value in log_fields(self.datadog).items():
                extra.setdefault(key, value)
        except Exception:  # a record whose extra is no dict
            pass
        if self.then is not None:
            self.then(record)


def instrument(target: None = None, *, datadog: bool = False) -> None:
    """Make ``Patcher`` the patcher of all loggers, before the configured one; calling it again changes *datadog* alone.

    ``logger.configure(patcher=)`` replaces it: call ``instrument()`` after that.
    """
    _check(target)
    uninstrument()
    core: Any = logger._core  # type: ignore[attr-defined]
    logger.configure(patcher=Patcher(datadog=datadog, then=core.patcher))


def uninstrument(target: None = None) -> None:
    """Put the previous patcher back, unless the program has configured another one since."""
    _check(target)
    core: Any = logger._core  # type: ignore[attr-defined]
    if type(core.patcher) is Patcher:
        core.patcher = core.patcher.then
