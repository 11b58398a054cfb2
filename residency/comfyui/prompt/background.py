"""Work that no node and no browser may wait for: one thread, alive only while there is something to do."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

log = logging.getLogger("residency")


class Errands:
    """Runs jobs one after the other in the order in which they came. A job that raises is logged, counted in `failures`, and stops
    nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Callable[[], object], Future[None]]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failures = 0

    def submit(self, job: Callable[[], object]) -> Future[None]:
        """Run the job soon; the future is done when it has ended, however it ended. A closed one forgets it,
        and so does a system without a thread left."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                done.set_result(None)
                return done
            self._jobs.append((job, done))
            if self._thread is None:
                # a daemon: ComfyUI's end must not wait for a drive that hangs
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # the interpreter is shutting down, or the system has no thread left
                    self._jobs.clear()
                    done.set_result(None)
                    log.warning("residency: a job of the thread %r is left undone: %s", self._name, error)
        return done

    def close(self, *, wait: bool = True) -> None:
        """Let submitted errands end; `wait`: join the thread, unless it is the one that asks."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                job, done = self._jobs.popleft()
            try:
                job()
            except BaseException:  # a thread that died of it would take every later job with it
                log.exception("residency: an errand failed")
                self.failures += 1
            done.set_result(None)
