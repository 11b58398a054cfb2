"""The file: opened, shared with other servers, and given up in one line when it cannot be used. Nothing here raises for it.

WAL: a reader never waits, a writer that dies leaves the last commit. One connection behind one lock serves every thread. A corrupt
file is moved aside once and begun anew; where nothing can be written the same tables are kept in memory until `retry` finds the file
usable. A file of another program or a newer version of this pack is never touched.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from . import _rows

log = logging.getLogger("residency")

T = TypeVar("T")

# Two servers that end a prompt at once: each commit takes some milliseconds. A longer wait would hold up the user's next prompt.
BUSY_TIMEOUT_S = 1.0
WAL_BYTES = 1 << 20  # what the log file is cut back to at a checkpoint
KEPT_CORRUPT = 3
SIDE_FILES = ("", "-wal", "-shm")

_IN_MEMORY = ":memory:"


class _NotOurs(sqlite3.OperationalError):
    """A sound database that is not for this version to write: asking again changes nothing."""


class Store:
    """`off` says in words why nothing is kept on disk; empty when it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.off = ""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._moved = False
        self._passes = False  # why it is off may have passed by the next look
        self._opened = 0
        with self._lock:
            self._open()

    def retry(self) -> None:
        """Open the file again when it is off for a reason that may have passed. Rows kept in memory meanwhile are given up for it."""
        with self._lock:
            if self.off and self._passes and self._connection is not None:
                self._open()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of `work`; None when nothing can be read."""
        return self._run(work)

    def change(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `work` in one transaction: all of it is kept or nothing. None when it could not be."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._run(transaction)

    def version(self) -> int:
        """Another number than before when somebody else has written to the file."""
        found = self.read(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0])) or 0
        return (self._opened << 32) + found

    def compact(self) -> None:
        """Give the space of deleted rows back to the file system, unless another server is in the way."""

        def shrink(connection: sqlite3.Connection) -> None:
            try:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.OperationalError as error:
                log.debug("residency: %s keeps its size for now (%s): the rows are gone, their space is used again", self.path, error)

        self._run(shrink)

    def size_bytes(self) -> int:
        """Bytes of the file and its log on disk."""
        return sum(_size(side) for side in self._files(self.path)) if not self.off else 0

    def close(self) -> None:
        """Close the file; later calls find nothing and keep nothing."""
        with self._lock:
            self._disconnect()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if self._connection is None:
                return None
            try:
                return work(self._connection)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):  # those pass; this prompt teaches nothing
                    self._give_up(str(error))
            except sqlite3.DatabaseError as error:
                # NOTADB and CORRUPT come as the bare class (CPython, _sqlite/util.c); its other subclasses are bugs of ours
                if type(error) is not sqlite3.DatabaseError:
                    raise
                self._move_aside(str(error))
            return None

    # --- with the lock held ---

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connected()
        except sqlite3.OperationalError as error:
            self._give_up(str(error), passes=not isinstance(error, _NotOurs))
        except sqlite3.DatabaseError as error:
            self._move_aside(str(error))
        except OSError as error:
            self._give_up(error.strerror or str(error))
        else:
            self._disconnect()
            self._connection = connection
            self._opened += 1
            if self.off:
                log.info("residency: profiles are kept in %s again", self.path)
                self.off = ""

    def _connected(self) -> sqlite3.Connection:
        self._inode = _inode(self.path)
        connection = _connect(str(self.path))
        try:
            if _rows.is_foreign(connection):
                raise _NotOurs("it is another program's database")
            if (version := _rows.version(connection)) > _rows.SCHEMA:
                raise _NotOurs(f"it is of version {version}, this pack knows {_rows.SCHEMA}: get a newer pack, or move the file away")
            _journal(connection)
            # 3 ms for a full file: a torn page is found here and not in the middle of a prompt
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            if not _rows.is_current(connection):
                self._build(connection)
            connection.execute("BEGIN IMMEDIATE")
            _rows.touch(connection)
            connection.execute("ROLLBACK")
            self._inode = _inode(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _build(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _rows.is_current(connection):  # another server may have built it while we waited
                if _rows.is_ours(connection):
                    log.warning("residency: %s is of version %d: profiles begin anew", self.path, _rows.version(connection))
                _rows.build(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _move_aside(self, reason: str) -> None:
        self._disconnect()
        if self._moved:
            self._give_up(f"corrupt again: {reason}", passes=False)
            return
        self._moved = True
        try:
            if _inode(self.path) == self._inode:  # else another server has moved it already
                number = next((n for n in range(1, KEPT_CORRUPT) if not _aside(self.path, n).exists()), KEPT_CORRUPT)
                aside = _aside(self.path, number)
                for old, new in zip(self._files(self.path), self._files(aside), strict=True):
                    if old.exists():
                        os.replace(old, new)
                log.warning("residency: %s is corrupt (%s): moved to %s, profiles begin anew", self.path, reason, aside.name)
        except OSError as error:
            self._give_up(f"corrupt, and it cannot be moved aside: {error.strerror or error}", passes=False)
            return
        self._open()

    def _give_up(self, reason: str, *, passes: bool = True) -> None:
        self._passes = passes
        before, self.off = self.off, reason
        if before and self._connection is not None:  # said already, and kept in memory already
            return
        self._disconnect()
        log.warning("residency: profiles are kept for this session only: %s: %s", self.path, reason)
        self._connection = _connect(_IN_MEMORY)
        _rows.build(self._connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @staticmethod
    def _files(path: Path) -> list[Path]:
        return [path.with_name(path.name + side) for side in SIDE_FILES]


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    # a commit is not synced to the drive: a power cut may cost the last prompts, never the file (sqlite.org/pragma.html#pragma_synchronous)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection


def _journal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. Two servers that start at once get in each other's way here without SQLite waiting for either."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.corrupt-{number}")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
