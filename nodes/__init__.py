"""The nodes that the user drags in. One module a family; extension.py lists them for ComfyUI."""
