"""Weights by their content: the names that go over the wire instead of paths, and the files of ComfyUI's model folders that have them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import folder_paths

from ...core.component import Component, Extent
from ...settings.node_inputs import NOT_WEIGHTS
from ...units import shown
from ...weights.content import content_key, content_of
from .requests import BadRequestError


def files_by_content(identities: list[str]) -> list[Component]:
    """Files of ComfyUI's model folders by content, each as one component. Raises BadRequestError for a name that is in none of them."""
    found: dict[str, Component] = {}
    wanted = dict.fromkeys(identities)
    sizes = {one.partition("-")[0] for one in wanted}
    for path, size_bytes in _model_files():
        if str(size_bytes) in sizes:
            try:
                named = content_of(path)
            except OSError:
                continue
            if named in wanted and named not in found:
                found[named] = Component(named, os.path.basename(path), "WEIGHTS", size_bytes, (Extent(path, 0, size_bytes),))
    for one in wanted:
        if one not in found:
            raise BadRequestError(
                f"no file of the model folders is {shown(one)}; GET /residency/state tells the identities of those in use"
            )
    return [found[one] for one in wanted]


def _model_files() -> Iterator[tuple[str, int]]:
    seen = set()
    for name in folder_paths.folder_names_and_paths:
        if name in NOT_WEIGHTS:
            continue
        for file in folder_paths.get_filename_list(name):
            path = folder_paths.get_full_path(name, file)
            if path is not None and (path := os.path.realpath(path)) not in seen:
                seen.add(path)
                try:
                    yield path, os.stat(path).st_size
                except OSError:
                    continue


def contents_of(components: Iterable[Component]) -> Iterator[str]:
    """The content of every file of these that can be read."""
    for component in components:
        for path in dict.fromkeys(extent.path for extent in component.extents):
            try:
                yield content_of(path)
            except OSError:
                continue


def content_keys(components: Mapping[str, Component]) -> tuple[dict[str, str], list[str]]:
    """The name by content of each component, by key; and a sentence for each that cannot be read."""
    names, missing = {}, []
    for key, component in components.items():
        try:
            names[key] = content_key(component)
        except OSError as error:
            missing.append(f"{component.name} cannot be read ({error.strerror})")
    return names, missing
