"""Residency for ComfyUI: see README.md. Nothing is imported or installed before ComfyUI asks for the extension."""

WEB_DIRECTORY = "web"


async def comfy_entrypoint():
    """ComfyUI's entry to the pack (V3): hooks and routes are installed in the extension's on_load."""
    try:
        from .nodes.extension import ResidencyExtension
    except (ImportError, AttributeError) as error:  # a ComfyUI without what the pack is made of
        from .nodes.unfit import Unfit

        return Unfit(error)
    return ResidencyExtension()
