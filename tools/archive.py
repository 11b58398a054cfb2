"""What users get from the Registry, as a table: folders of the archive, their files and sizes.

comfy node validate && comfy node pack      checks the pack, and makes node.zip of what git tracks, less .comfyignore
python tools/archive.py node.zip            prints the table of docs/archive.md
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import PurePosixPath

LISTED = 40  # names; a folder of more has one file a node


def table(archive: zipfile.ZipFile) -> str:
    """Markdown: a row for each folder, the sum first."""
    files = [info for info in archive.infolist() if not info.is_dir()]
    folders: dict[str, list[zipfile.ZipInfo]] = {}
    for info in files:
        parent = PurePosixPath(info.filename).parent
        # a node's pages in other languages stand in a folder of its own
        folders.setdefault("web/docs" if parent.is_relative_to("web/docs") else str(parent), []).append(info)
    rows = [_row("all", files, "")]
    for folder, held in sorted(folders.items()):
        names = sorted(PurePosixPath(info.filename).name for info in held)
        told = ", ".join(names) if len(names) <= LISTED else "one a node and language"
        rows.append(_row("the pack's folder" if folder == "." else f"`{folder}`", held, told))
    return "\n".join(["| folder | files | KiB | KiB packed | names |", "| --- | ---: | ---: | ---: | --- |", *rows])


def _row(name: str, files: list[zipfile.ZipInfo], names: str) -> str:
    size, packed = (sum(values) / 1024 for values in ([info.file_size for info in files], [info.compress_size for info in files]))
    return f"| {name} | {len(files)} | {size:,.0f} | {packed:,.0f} | {names} |"


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as archive:
        print(table(archive))
