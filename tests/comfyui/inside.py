"""For scripts that run inside ComfyUI's own Python: ComfyUI's modules importable, its arguments parsed, its files in a scratch folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def enter(root: Path, scratch: Path, device: str = "--cpu") -> None:
    """Make this process a ComfyUI of the folder `root`; call it before importing anything of it. `device` "": the one that it finds."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    sys.path.append(str(REPO))  # last: the pack's nodes/ must not hide ComfyUI's nodes.py
    folders = ["--output-directory", str(scratch), "--user-directory", str(scratch)]
    sys.argv = ["main.py", *filter(None, [device]), "--database-url", "sqlite:///:memory:", *folders]
    import comfy.options

    comfy.options.enable_args_parsing()
