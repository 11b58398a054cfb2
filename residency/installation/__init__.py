"""Where a ComfyUI lies, how it is started, and which parts of the pack fit it."""
