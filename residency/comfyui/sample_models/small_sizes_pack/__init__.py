"""Lets the ComfyUI that it is linked into load the small models of families.py. A custom node pack without nodes."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[1] / "small_sizes.py"
# by its path: where a pack lies, nothing of this one can be imported by name
_spec = importlib.util.spec_from_file_location("residency_small_sizes", _PATH)
assert _spec is not None and _spec.loader is not None
_sizes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sizes)
_sizes.install()

NODE_CLASS_MAPPINGS: dict[str, type] = {}
