"""Where a ComfyUI lies, how it is started, and what of the pack fits it."""
