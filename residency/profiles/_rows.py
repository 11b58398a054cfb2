"""The tables and every SQL statement. Functions on a connection; whoever calls them holds the transaction."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._estimate import Accuracy, Quantity, Track
from ._keys import Level

APPLICATION_ID = 0x52736463  # "Rsdc": tells our file from somebody else's database
SCHEMA = 1  # another number rebuilds the tables: one run of a workflow teaches it all again

# Rows of `tracks` and of `loads`, each. 20,000 tracks make a file of 5.2 MB, and one prompt of 100 timed nodes writes at most 400. An
# index on `seen_unix_s` would make the file 6.5 MB and each of these writes dearer, to save 5 ms of sorting at a trim.
MAX_ROWS = 20_000
KEPT_SHARE = 0.95  # of MAX_ROWS after a trim (20 µs a dropped row): once in some prompts, not at each

_CREATE = (
    """CREATE TABLE tracks (quantity TEXT, id TEXT, level TEXT, label TEXT, environment TEXT, samples TEXT, count INTEGER, error REAL,
    under REAL, seen_unix_s REAL, PRIMARY KEY (quantity, id)) WITHOUT ROWID""",
    "CREATE TABLE loads (id TEXT PRIMARY KEY, label TEXT, components TEXT, seen_unix_s REAL) WITHOUT ROWID",
    """CREATE TABLE accuracy (quantity TEXT, level TEXT, count INTEGER, error REAL, inside INTEGER, PRIMARY KEY (quantity, level))
    WITHOUT ROWID""",
)
_DROP = ("DROP TABLE IF EXISTS tracks", "DROP TABLE IF EXISTS loads", "DROP TABLE IF EXISTS accuracy")
_CLEAR = ("DELETE FROM tracks", "DELETE FROM loads", "DELETE FROM accuracy")
_TRIM = (  # how many there are, and how the oldest of them go
    (
        "SELECT count(*) FROM tracks",
        "DELETE FROM tracks WHERE (quantity, id) IN (SELECT quantity, id FROM tracks ORDER BY seen_unix_s LIMIT ?)",
    ),
    ("SELECT count(*) FROM loads", "DELETE FROM loads WHERE id IN (SELECT id FROM loads ORDER BY seen_unix_s LIMIT ?)"),
)
_TRACKS_OF = "SELECT id, samples, count, error, under FROM tracks WHERE quantity = ? AND id IN"
_LOADS_OF = "SELECT id, components FROM loads WHERE id IN"
_MAX_VARIABLES = 500  # of one statement; SQLite before 3.32 takes 999


@dataclass(frozen=True, slots=True)
class TrackRow:
    """A track and its names for people: class, component or drive, and where it was measured."""

    quantity: Quantity
    id: str
    level: Level
    label: str
    environment: str
    track: Track


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Whether the database holds somebody else's tables."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables) and not is_ours(connection)


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether some version of this pack has made it."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return bool(application == APPLICATION_ID)


def version(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0 in a new file."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def is_current(connection: sqlite3.Connection) -> bool:
    return version(connection) == SCHEMA


def touch(connection: sqlite3.Connection) -> None:
    """A write that changes nothing: a read-only file lets a transaction begin and fails only here."""
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def build(connection: sqlite3.Connection) -> None:
    """Make the tables anew, dropping those of another schema."""
    for statement in _DROP + _CREATE:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def tracks(connection: sqlite3.Connection, quantity: Quantity, ids: Iterable[str]) -> dict[str, Track]:
    """The tracks there are of these ids."""
    found = ((id_, _track(*fields)) for id_, *fields in _chosen(connection, _TRACKS_OF, (quantity.value,), ids))
    return {id_: track for id_, track in found if track is not None}


def loads(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Component keys by node id hash."""
    return {id_: _strings(text) for id_, text in _chosen(connection, _LOADS_OF, (), ids)}


def accuracies(connection: sqlite3.Connection) -> dict[tuple[str, str], Accuracy]:
    """By quantity and level, as their values."""
    rows = connection.execute("SELECT quantity, level, count, error, inside FROM accuracy")
    return {(quantity, level): Accuracy(count, error, inside) for quantity, level, count, error, inside in rows}


def write(
    connection: sqlite3.Connection,
    now_unix_s: float,
    track_rows: Iterable[TrackRow],
    loaded: Mapping[str, tuple[str, tuple[str, ...]]],
    accuracy: Mapping[tuple[str, str], Accuracy],
) -> None:
    """Write the lessons of one prompt; `loaded` is (class, component keys) by node id hash."""
    connection.executemany(
        "INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                row.quantity.value,
                row.id,
                row.level.value,
                row.label.encode("utf-8", "replace").decode(),  # a file's name need not be text
                row.environment,
                "[" + ",".join(f"{value:.9g}" for value in row.track.samples) + "]",
                row.track.count,
                row.track.error,
                row.track.under,
                now_unix_s,
            )
            for row in track_rows
        ),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO loads VALUES (?, ?, ?, ?)",
        ((id_, label, json.dumps(components), now_unix_s) for id_, (label, components) in loaded.items()),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO accuracy VALUES (?, ?, ?, ?, ?)",
        ((*key, one.count, one.error, one.inside) for key, one in accuracy.items()),
    )


def trim(connection: sqlite3.Connection, max_rows: int) -> int:
    """Drop the least recently seen rows of a table that has outgrown `max_rows`; returns how many."""
    dropped = 0
    for count_rows, drop_oldest in _TRIM:
        (count,) = connection.execute(count_rows).fetchone()
        if count > max_rows:
            dropped += connection.execute(drop_oldest, (count - int(KEPT_SHARE * max_rows),)).rowcount
    return dropped


def track_count(connection: sqlite3.Connection) -> int:
    """The number of tracks."""
    (count,) = connection.execute("SELECT count(*) FROM tracks").fetchone()
    return int(count)


def clear(connection: sqlite3.Connection) -> int:
    """Forget everything; returns how many rows that were."""
    return sum(connection.execute(statement).rowcount for statement in _CLEAR)


def listing(connection: sqlite3.Connection, quantities: Iterable[Quantity], level: Level) -> Iterator[TrackRow]:
    """The rows of one level, last seen first."""
    for quantity in quantities:
        chosen = "SELECT id, label, environment, samples, count, error, under FROM tracks WHERE quantity = ? AND level = ?"
        for id_, label, environment, *fields in connection.execute(f"{chosen} ORDER BY seen_unix_s DESC", (quantity.value, level.value)):
            track = _track(*fields)
            if track is not None:
                yield TrackRow(quantity, id_, level, label, environment, track)


def load_listing(connection: sqlite3.Connection) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(class, component keys), last seen first, each once."""
    seen = connection.execute("SELECT label, components FROM loads GROUP BY label, components ORDER BY max(seen_unix_s) DESC")
    return ((label, _strings(components)) for label, components in seen)


def _chosen(connection: sqlite3.Connection, statement: str, values: tuple[str, ...], ids: Iterable[str]) -> Iterator[Any]:
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), _MAX_VARIABLES):
        some = wanted[start : start + _MAX_VARIABLES]
        yield from connection.execute(f"{statement} ({','.join('?' * len(some))})", (*values, *some))


def _track(samples: Any, count: Any, error: Any, under: Any) -> Track | None:
    """None for a row that somebody has edited into nonsense: it is learned anew."""
    try:
        values = tuple(float(value) for value in json.loads(samples))
        track = Track(values, int(count), float(error), float(under))
    except (TypeError, ValueError, OverflowError):
        return None
    sound = values and all(math.isfinite(value) and value > 0 for value in values) and track.count > 0
    return track if sound and math.isfinite(track.error) and math.isfinite(track.under) else None


def _strings(text: Any) -> tuple[str, ...]:
    try:
        return tuple(str(value) for value in json.loads(text))
    except (TypeError, ValueError):
        return ()
