"""The lessons of earlier runs, kept across restarts: durations, device peaks, loaded bytes, rates, and the components that nodes load.

The first run of a workflow is its warm-up. `node_keys` says which earlier runs speak for a node, `Profiles` keeps and answers.
The file is SQLite, holds no text of the user's beyond the names of classes and weights, stays below some 6 MB, and may be deleted at
any time.
"""

from __future__ import annotations

from pathlib import Path

from ._estimate import Estimate, Quantity
from ._keys import Level, NodeKey, node_keys
from ._profiles import LEAST_S, Profiles, computed_s

__all__ = ["LEAST_S", "Estimate", "Level", "NodeKey", "Profiles", "Quantity", "computed_s", "database_in", "node_keys"]


def database_in(user_directory: str | Path) -> Path:
    """The place of the profiles in ComfyUI's user directory: a folder that its HTTP routes do not serve.

    The same place as folder_paths.get_system_user_directory("residency"), which older ComfyUI versions lack.
    """
    return Path(user_directory, "__residency", "profiles.sqlite3")
