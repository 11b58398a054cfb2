"""The archive that the Registry hands to users, packed as comfy-cli packs it: what git tracks, less what .comfyignore names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parents[1]


def archive_files(root: Path = ROOT) -> list[str]:
    """The paths in the archive, from the pack's folder. New files count before they are committed."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = (root / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = GitIgnoreSpec.from_lines(lines)
    return sorted(path for path in set(tracked) if not ignored.match_file(path) and (root / path).is_file())


def unpack(into: Path) -> Path:
    """The archive's files and nothing else, in a folder of their own."""
    for path in archive_files():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, into / path)
    return into
