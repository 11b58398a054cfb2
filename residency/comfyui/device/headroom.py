"""Device memory for copies of weights while a node runs, and the part that they leave free."""

from __future__ import annotations

from .contents import Contents
from .cuda import Cuda

# The allocator's own margin is 0.25 GiB, and what it needs beside is taken back page by page. Less where it is known what the node
# computes with beside its weights: that is left free as well.
HEADROOM_BYTES = 1024**3
KNOWN_HEADROOM_BYTES = 512 * 1024**2


class Headroom:
    """Of the node that runs. `size_bytes`: free beside the node's allocations to come and the user's headroom."""

    def __init__(self, cuda: Cuda | None, contents: Contents) -> None:
        self.size_bytes = HEADROOM_BYTES
        self._cuda, self._contents = cuda, contents
        self._working_set_bytes = 0

    def expect(self, working_set_bytes: int) -> None:
        """A node is about to start for which torch will hold so many bytes beside its weights; 0: nobody knows."""
        self._working_set_bytes = working_set_bytes
        self.size_bytes = KNOWN_HEADROOM_BYTES if working_set_bytes else HEADROOM_BYTES

    def room_for_copies(self, asked_bytes: int = 0) -> int:
        """Device memory that copies may take beside the allocations to come of the node that runs: its known working set, else ComfyUI's
        own request."""
        assert self._cuda is not None
        coming_bytes = self._working_set_bytes - self._cuda.reserved_bytes() if self._working_set_bytes else asked_bytes
        return self._cuda.free_bytes() - max(0, coming_bytes) - self.size_bytes - self._contents.spared_bytes

    def of_exchange(self, asked_bytes: int) -> int:
        """Bytes that an exchange leaves free, for a load in which ComfyUI has asked for so many beside the weights."""
        # No more, also where more is known to come: pages without an image would leave for it. With all of it C2 read 3.4 GB in each
        # prompt, with this 0 to 1 (H100, 8 GiB of it).
        return max(HEADROOM_BYTES, min(asked_bytes, 2 * HEADROOM_BYTES)) + self._contents.spared_bytes

    def beyond_exchange(self, asked_bytes: int) -> int:
        """Bytes beyond those of `of_exchange` that the node that runs will still allocate, where its working set is known."""
        if self._cuda is None or not self._working_set_bytes:
            return 0
        coming_bytes = self._working_set_bytes - self._cuda.reserved_bytes() + KNOWN_HEADROOM_BYTES + self._contents.spared_bytes
        return max(0, coming_bytes - self.of_exchange(asked_bytes))
