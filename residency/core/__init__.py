"""The deciding core: events in, instructions out. Pure: no torch, no ComfyUI, no clock, no files."""
