"""Whether a file is still the one it was, asked of the system and not of its bytes.

Weights outlive their file: a loader's result in ComfyUI's cache, a read that is under way, a header that was parsed. Each of them keeps
the identity of the file that it came from, and asks here before it is used again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..core.component import FileIdentity


def identity(path: str) -> FileIdentity:
    """The identity of the file or folder that the path leads to now, through links. OSError when there is none."""
    stat = os.stat(path)
    return FileIdentity(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def identities(paths: Iterable[str]) -> tuple[FileIdentity, ...]:
    """The identity of each path; a folder stands for every file below it."""
    found: list[FileIdentity] = []
    for path in paths:
        inside = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        found += map(identity, inside or [path])
    return tuple(found)


def change(before: FileIdentity) -> str | None:
    """The change of a file since then: "NAME was replaced", "… was changed", "… is gone". None: it is the same."""
    name = os.path.basename(before.path)
    try:
        now = identity(before.path)
    except OSError as error:
        return f"{name} is gone" if isinstance(error, FileNotFoundError) else f"{name} cannot be looked at ({error.strerror})"
    if now == before:
        return None
    same_file = (now.device, now.inode) == (before.device, before.inode)
    # the time of the last change of the entry (st_ctime) moves when somebody writes and puts the other time back
    return f"{name} was changed" if same_file else f"{name} was replaced"


def first_change(files: Iterable[FileIdentity]) -> str | None:
    """The first of them that is not the same any more, in the words of `change`."""
    return next((changed for changed in map(change, files) if changed is not None), None)
