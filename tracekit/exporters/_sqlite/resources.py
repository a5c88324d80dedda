"""Resources in a store of spans: the JSON text of each is stored once, because all spans of a process repeat it.

How it works: rows of ``spans`` have ids in order of arrival, and a resource has the last id of the last batch that
refers to it. Once all spans up to this one are deleted, none can refer to it, and it is deleted. So nothing is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

RESOURCES: Final = (
    """CREATE TABLE resources (
        id INTEGER PRIMARY KEY,
        resource TEXT NOT NULL UNIQUE,
        last_span INTEGER NOT NULL  -- no span with a larger id refers to it
    )""",
    "CREATE INDEX resources_by_last_span ON resources (last_span)",
)

# As a column of a query on spans; NULL if another program deleted it.
RESOURCE: Final = "(SELECT resource FROM resources WHERE resources.id = spans.resource_id)"


def resource_ids(connection: sqlite3.Connection, resources: Iterable[str]) -> dict[str, int]:
    """Return the id of each text, in a transaction that will call ``keep_used()``; new ones are inserted."""
    ids = {}
    for resource in resources:
        found = connection.execute("SELECT id FROM resources WHERE resource = ?", (resource,)).fetchone()
        if found is None:
            added = connection.execute("INSERT INTO resources (resource, last_span) VALUES (?, 0)", (resource,))
            ids[resource] = int(added.lastrowid or 0)
        else:
            ids[resource] = found[0]
    return ids


def keep_used(connection: sqlite3.Connection, ids: Iterable[int], last: int) -> None:
    """Record that spans up to the id *last* refer to the resources *ids*."""
    connection.executemany("UPDATE resources SET last_span = ? WHERE id = ?", [(last, id) for id in ids])


def delete_unused(connection: sqlite3.Connection) -> None:
    """Delete the resources whose last span, and all that arrived before it, are deleted."""
    (first,) = connection.execute("SELECT min(id) FROM spans").fetchone()
    if first is None:
        connection.execute("DELETE FROM resources")
    else:
        connection.execute("DELETE FROM resources WHERE last_span < ?", (first,))
