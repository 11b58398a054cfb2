"""A host on plain PyTorch: real files and real modules, no ComfyUI."""
