"""The mover of weights to and from ComfyUI's device."""
