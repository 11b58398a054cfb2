"""For stories about identity: says whether two links carry the very same object."""


class SameObject:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"one": ("*",), "other": ("*",)}}

    RETURN_TYPES = ()
    FUNCTION = "compare"
    CATEGORY = "probe"
    OUTPUT_NODE = True

    def compare(self, one, other):
        return {"ui": {"text": [str(one is other)]}}


NODE_CLASS_MAPPINGS = {"SameObject": SameObject}
