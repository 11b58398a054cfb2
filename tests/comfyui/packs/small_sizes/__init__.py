"""Lets this ComfyUI load the small models of residency/comfyui/sample_models/families.py."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[4] / "residency" / "comfyui" / "sample_models" / "small_sizes.py"
_spec = importlib.util.spec_from_file_location("small_sizes_of_the_tests", _PATH)
_sizes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sizes)
_sizes.install()

NODE_CLASS_MAPPINGS = {}
