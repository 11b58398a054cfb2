"""Tells which locks of the pack are waited for by a thread that holds another one of them, into the file that LOCK_ORDER names.

Python imports this by itself before anything else where its folder is in PYTHONPATH: every lock that the pack makes is seen. A lock is
named by its module and attribute. What is only tried, or waited for no longer than a given time, can end no thread and is not told.
"""

import linecache
import os
import re
import sys
import threading

_told = set()
_held = threading.local()
_Lock, _RLock = threading.Lock, threading.RLock
_write = _Lock()


def _name():
    """Of the lock that is being made; None where the pack does not make it."""
    frame = sys._getframe(2)
    if frame.f_code is threading.Condition.__init__.__code__:
        frame = frame.f_back  # what it asks for is its own lock; a thread's and an event's have theirs from threading itself
    path = frame.f_code.co_filename if frame is not None else ""
    _, found, module = path.partition("/custom_nodes/residency/residency/")
    if not found:
        return None
    attribute = re.search(r"(\w+)\s*(?::[^=]+)?=", linecache.getline(path, frame.f_lineno))
    return f"{module.removesuffix('.py')}.{attribute.group(1) if attribute else frame.f_lineno}"


class _Seen:
    def __init__(self, lock, name):
        self._lock, self._called = lock, name

    def acquire(self, blocking=True, timeout=-1):
        names = _held.__dict__.setdefault("names", [])
        if blocking and timeout < 0 and self._called not in names:
            for before in names:
                self._tell(before)
        got = self._lock.acquire(blocking, timeout)
        if got:
            names.append(self._called)
        return got

    def release(self):
        self._lock.release()
        names = _held.__dict__.setdefault("names", [])
        if self._called in names:
            names.reverse()
            names.remove(self._called)
            names.reverse()

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *raised):
        self.release()

    def __getattr__(self, name):
        return getattr(self._lock, name)

    def _tell(self, before):
        pair = (before, self._called)
        with _write:
            if pair not in _told:
                _told.add(pair)
                with open(os.environ["LOCK_ORDER"], "a", encoding="utf-8") as file:
                    file.write(" ".join(pair) + "\n")


class _SeenAgain(_Seen):
    """One that a thread may take twice; a condition gives it up as a whole while it waits."""

    def _release_save(self):
        names = _held.__dict__.setdefault("names", [])
        kept = [name for name in names if name == self._called]
        names[:] = [name for name in names if name != self._called]
        return self._lock._release_save(), kept

    def _acquire_restore(self, saved):
        state, kept = saved
        self._lock._acquire_restore(state)
        _held.__dict__.setdefault("names", []).extend(kept)

    def _is_owned(self):
        return self._lock._is_owned()


def _lock():
    name = _name()
    return _Lock() if name is None else _Seen(_Lock(), name)


def _rlock():
    name = _name()
    return _RLock() if name is None else _SeenAgain(_RLock(), name)


if "LOCK_ORDER" in os.environ:
    threading.Lock, threading.RLock = _lock, _rlock
