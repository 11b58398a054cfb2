"""Work that no node and no browser may wait for: one thread, alive only while there is something to do."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger("residency")


class Errands:
    """Runs jobs one after the other in the order in which they came. A job that raises is logged and stops nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], object]) -> None:
        """Run the job soon; a closed one forgets it."""
        with self._lock:
            if self._closed:
                return
            self._jobs.append(job)
            if self._thread is None:
                # a daemon: ComfyUI's end must not wait for a drive that hangs
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Let what was submitted end, and join the thread, unless it is the one that asks."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                log.exception("residency: an errand failed")
