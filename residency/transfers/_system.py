"""The system of this process: all that this room asks of a system is asked here, and a test puts another one in its place."""

from __future__ import annotations

import sys

from ._interface import System


def of(platform: str) -> System:
    if platform == "linux":
        from ._linux import Linux

        return Linux()
    if platform == "darwin":
        from ._darwin import Darwin

        return Darwin()
    if platform == "win32":
        from ._windows import Windows

        return Windows()
    from ._portable import Portable

    return Portable()


current: System = of(sys.platform)
