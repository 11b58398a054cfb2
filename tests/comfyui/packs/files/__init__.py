"""For stories about files that change while a queue runs: does something to a file when its turn comes."""

import os
import shutil


def _replace(path, other):
    shutil.copy(other, f"{path}.part")
    os.replace(f"{path}.part", path)


def _rewrite(path, other):
    """In place, and the times put back: neither size, nor inode, nor time of change tells."""
    before = os.stat(path)
    shutil.copyfile(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _twin(path, other):
    """Another file of the same size and time."""
    before = os.stat(path)
    _replace(path, other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _recreate(path, other):
    os.unlink(path)
    shutil.copy(other, path)


ACTS = {
    "replaced": _replace,
    "rewritten": _rewrite,
    "twin": _twin,
    "recreated": _recreate,
    "touched": lambda path, other: os.utime(path),
    "truncated": lambda path, other: os.truncate(path, os.stat(path).st_size // 2),
    "emptied": lambda path, other: os.truncate(path, 0),
    "deleted": lambda path, other: os.unlink(path),
}


class ChangeFile:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"path": ("STRING",), "other": ("STRING",), "how": (list(ACTS),), "take": ("INT", {"default": 0, "max": 1 << 40})},
            "optional": {"after": ("*",)},
        }

    RETURN_TYPES = ()
    FUNCTION = "act"
    CATEGORY = "files"
    OUTPUT_NODE = True

    def act(self, path, other, how, take, after=None):
        ACTS[how](path, other)
        return ()


NODE_CLASS_MAPPINGS = {"ChangeFile": ChangeFile}
