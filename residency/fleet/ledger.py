"""The memory of a door that is started anew: prompts that were taken and have not ended, the history of those that have, drained workers.
One SQLite file in the fleet's folder, readable by its owner alone: prompts may carry keys.

A prompt is written down before it is sent. Where the file cannot be written (a full disk), the door goes on and says so.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("residency.fleet")

KEPT = 1000  # prompts that have ended
TABLES = """
CREATE TABLE IF NOT EXISTS taken (prompt_id TEXT PRIMARY KEY, body TEXT, worker TEXT, life TEXT, runs INTEGER);
CREATE TABLE IF NOT EXISTS ended (place INTEGER PRIMARY KEY AUTOINCREMENT, prompt_id TEXT UNIQUE, history TEXT, job TEXT);
CREATE TABLE IF NOT EXISTS drained (worker TEXT PRIMARY KEY);
"""


class Ledger:
    """Not thread-safe. Without a path it lasts as long as the door."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
        self._file = sqlite3.connect(str(path) if path is not None else ":memory:", isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        self._file.executescript(TABLES)
        self.failure = ""  # why what was written last is not kept

    def close(self) -> None:
        self._file.close()

    def takes(self, prompt_id: str, body: Mapping[str, Any], worker: str, life: str, runs: int) -> None:
        """The prompt is about to be sent there."""
        row = (prompt_id, json.dumps(body), worker, life, runs)
        self._write("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?, ?)", row)

    def gives_back(self, prompt_id: str) -> None:
        """It was refused, or taken out of the queue."""
        self._write("DELETE FROM taken WHERE prompt_id = ?", (prompt_id,))

    def ends(self, prompt_id: str, history: Mapping[str, Any], job: Mapping[str, Any] | None) -> None:
        """It has ended, with these entries of ComfyUI's history and jobs."""
        row = (prompt_id, json.dumps(history), None if job is None else json.dumps(job))
        self._write("INSERT OR REPLACE INTO ended (prompt_id, history, job) VALUES (?, ?, ?)", row)
        self._write("DELETE FROM ended WHERE place <= (SELECT MAX(place) FROM ended) - ?", (KEPT,))
        self.gives_back(prompt_id)

    def forgets(self, prompt_id: str | None) -> None:
        """The history of one prompt, or of all."""
        self._write("DELETE FROM ended WHERE ?1 IS NULL OR prompt_id = ?1", (prompt_id,))

    def drains(self, worker: str, on: bool) -> None:
        self._write("INSERT OR IGNORE INTO drained VALUES (?)" if on else "DELETE FROM drained WHERE worker = ?", (worker,))

    def taken(self) -> Iterator[tuple[str, dict[str, Any], str, str, int]]:
        """(prompt id, body, worker, its life, runs) in the order in which they were taken."""
        for prompt_id, body, *rest in self._file.execute("SELECT prompt_id, body, worker, life, runs FROM taken ORDER BY rowid"):
            yield prompt_id, json.loads(body), *rest

    def histories(self, most: int | None = None) -> dict[str, Any]:
        """Of the newest, the oldest first."""
        rows = self._file.execute("SELECT prompt_id, history FROM ended ORDER BY place DESC LIMIT ?", (most or KEPT,)).fetchall()
        return {prompt_id: json.loads(history) for prompt_id, history in reversed(rows)}

    def history(self, prompt_id: str) -> Any:
        """None of one that has not ended here."""
        row = self._file.execute("SELECT history FROM ended WHERE prompt_id = ?", (prompt_id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def jobs(self) -> dict[str, Any]:
        """As ComfyUI lists them."""
        rows = self._file.execute("SELECT prompt_id, job FROM ended WHERE job IS NOT NULL ORDER BY place")
        return {prompt_id: json.loads(job) for prompt_id, job in rows}

    def count(self) -> int:
        """Prompts that have ended."""
        return int(self._file.execute("SELECT COUNT(*) FROM ended").fetchone()[0])

    def drained(self) -> set[str]:
        return {worker for (worker,) in self._file.execute("SELECT worker FROM drained")}

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._file.execute(statement, values)
            self.failure = ""
        except sqlite3.Error as error:
            if not self.failure:
                log.warning("what waits would not survive a new start of the door: the ledger cannot be written (%s)", error)
            self.failure = str(error)
