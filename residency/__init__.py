"""Residency: knows which weights a ComfyUI graph needs next, and moves them before they are asked for.

The deciding core is pure (events in, instructions out); hosts and movers do the work. docs/architecture.md has the picture.
"""

__version__ = "0.1.0"
