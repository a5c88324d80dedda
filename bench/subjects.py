"""Subjects that several contenders share: spans in a block, headers, and one request to an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import inputs
from .measure import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

WITH_SPAN = "with span('work'):\n    pass"


def reading(extract: Callable[..., Any]) -> dict[str, Subject]:
    """Return the subjects that read headers, by row."""
    carriers = {
        "extract_parent": inputs.PARENT_ONLY,
        "extract_state": inputs.PARENT_AND_STATE,
        "extract_request": inputs.REQUEST,
        "extract_labels": inputs.LABELS_ONLY,
    }
    return {
        row: Subject("extract(carrier)", {"extract": extract, "carrier": carrier}) for row, carrier in carriers.items()
    }


def writing(
    inject: Callable[..., Any],
    extract: Callable[..., Any],
    parent: Callable[[], AbstractContextManager[object]],
    after: Callable[[], object],
) -> dict[str, Subject]:
    """Return the subjects that write headers, by row: those of *parent*, and labels that *extract* has read."""

    def relay(carrier: dict[str, str]) -> Subject:
        return Subject(
            "inject({}, item)", {"inject": inject}, items=lambda count: [extract(carrier) for _ in range(count)]
        )

    return {
        "inject_parent": Subject("inject({})", {"inject": inject}, parent, after),
        "inject_labels": relay(inputs.LABELS_ONLY),
        "inject_8_labels": relay(inputs.EIGHT_LABELS),
    }


def asgi_request(app: Callable[..., Any], after: Callable[[], object] = lambda: None) -> Subject:
    """Return one request to *app*, in a task; each request has a new scope, as from a server."""
    names = {"app": app, "scope": inputs.HTTP_SCOPE, "receive": inputs.receive, "send": inputs.send}
    return Subject("await app(dict(scope), receive, send)", names, after=after, chunk=100, in_task=True)


def wsgi_request(app: Callable[..., Any], after: Callable[[], object] = lambda: None) -> Subject:
    """Return one request to *app*, a WSGI application; each request has a new environ, as from a server."""
    return Subject("serve(app)", {"serve": inputs.serve_wsgi, "app": app}, after=after, chunk=100)
