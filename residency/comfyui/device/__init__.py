"""What moves weights to and from ComfyUI's device."""
