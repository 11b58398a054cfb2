"""Workflow files as programs for the simulator: order and weights predicted, seconds and working sets as earlier runs took them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.component import Component
from ..core.timeline import UseKind
from ..graph import AllowanceError
from ..graph.passes import sampler_passes
from ..installation.locate import ComfyUI, find_comfyui
from ..profiles import Profiles, database_in, node_keys
from ..simulate import Program, Step
from ..units import UsageError, parse_size, printable, shown
from ..workflow.core_nodes import core_nodes
from ..workflow.extra_paths import FILE_NAME, read_extra_paths
from ..workflow.file import Workflow, WorkflowError, read_workflow
from ..workflow.predict import NotUnderstood, Prediction, Why, predict

OWN_PREFIX = "Residency"
WORKFLOW_HELP = "as ComfyUI saves it, its API format, or a picture (PNG, WebP) that ComfyUI saved"
_SHOWN_IDS = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """One workflow file: its prediction, and one step for each visit. `unknown` counts the steps whose seconds nobody knows."""

    name: str
    prediction: Prediction
    steps: tuple[Step, ...]
    unknown: int


@dataclass(frozen=True, slots=True)
class Known:
    """The profiles' expectations for one workflow: seconds and working sets by node id."""

    compute_s: Mapping[str, float]
    working_set_bytes: Mapping[str, int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `prepare` reads, --guess among them."""
    help_models = "ComfyUI's models folder (default: that of the ComfyUI found, or ./models)"
    parser.add_argument("--models-directory", type=Path, metavar="DIR", help=help_models)
    help_extra = f"a file of more model folders, as ComfyUI's option (default without --models-directory: {FILE_NAME} of the ComfyUI found)"
    parser.add_argument("--extra-model-paths-config", type=Path, action="append", default=[], metavar="FILE.yaml", help=help_extra)
    parser.add_argument("--sizes", type=Path, metavar="SIZES.json", help='sizes of files that are not here: {"a.safetensors": "9.8GB"}')
    parser.add_argument("--database", type=Path, metavar="PATH", help="the profiles (default: in the user folder of the ComfyUI found)")
    parser.add_argument("--guess", action="store_true", help="go on where a node class is unknown, and guess what it does")


def prepare(paths: list[Path], options: argparse.Namespace, reads_at: UseKind = UseKind.COMPUTE) -> list[Prepared]:
    """Read the workflow files. Raises WorkflowError and UsageError."""
    workflows = [read_workflow(path) for path in paths]
    if not options.guess:
        for path, workflow in zip(paths, workflows, strict=True):
            refuse_unknown(workflow, path)
    sizes = read_sizes(options.sizes) if options.sizes else {}
    found = find_comfyui()
    models = options.models_directory or (found.path / "models" if found else Path("models"))
    if not models.is_dir() and not (sizes and options.models_directory is None):
        raise WorkflowError(f"{models}: no such folder; give ComfyUI's models folder with --models-directory, or sizes with --sizes")
    config = found.path / FILE_NAME if found and options.models_directory is None else None
    configs = [*([config] if config and config.is_file() else []), *options.extra_model_paths_config]
    extra = [folder for file in configs for folder in read_extra_paths(file)]
    database = _database(options, found)
    prepared = []
    for number, (path, workflow) in enumerate(zip(paths, workflows, strict=True)):
        try:
            prediction = predict(workflow, models, reads_at, f"{path.stem} {number + 1}", sizes, extra)
        except AllowanceError as error:
            raise WorkflowError(f"{path}: {error}; split it into smaller workflows") from error
        known = _known(workflow, prediction, database)
        steps = _steps(workflow, prediction, known)
        prepared.append(Prepared(path.name, prediction, steps, sum(step.node_id not in known.compute_s for step in steps)))
    named = {name for ready in prepared for name in ready.prediction.named}
    unused = [name for name in sizes if name not in named]
    if unused:
        raise UsageError(f"{options.sizes}: {shown(unused[0])} is named by no workflow; write the name as in the loader, with its folder")
    return prepared


def refuse_unknown(workflow: Workflow, path: Path) -> None:
    """Raises WorkflowError for a node whose class ComfyUI does not ship and whose outputs the file does not tell."""
    for node_id, node in workflow.prompt.items():
        name = node["class_type"]
        told = name in core_nodes() or name.startswith(OWN_PREFIX) or node_id in workflow.output_types
        if not told:
            way = "save it in the editor's format, which says what its nodes give, or add --guess"
            raise WorkflowError(f"{path}: node {printable(node_id)} is of class {shown(name)}, which ComfyUI does not ship; {way}")


def told(one: NotUnderstood) -> str:
    """The things not understood, in one line for people."""
    value, nodes = printable(one.value), ", ".join(map(printable, one.node_ids[:_SHOWN_IDS]))
    more = f" and {len(one.node_ids) - _SHOWN_IDS} more" if len(one.node_ids) > _SHOWN_IDS else ""
    node = f"{printable(one.class_type)} {nodes}{more}"
    if one.why is Why.MISSING:
        return f"missing: {value} ({node}) is in no model folder; it counts as nothing below, or give its size with --sizes"
    if one.why is Why.UNUSABLE:
        return f"warning: node {nodes}{more}: {' '.join(one.value.splitlines())}"
    subject = f"{value} ({node})" if one.value else node.strip()
    return f"not understood: {subject + ': ' if subject else ''}{one.may_mean}"


def as_json(not_understood: Sequence[NotUnderstood]) -> list[dict[str, Any]]:
    return [
        {"why": one.why.value, "class_type": one.class_type, "node_ids": list(one.node_ids), "value": one.value, "may_mean": one.may_mean}
        for one in not_understood
    ]


def read_sizes(path: Path) -> dict[str, int]:
    """File name -> bytes. Raises UsageError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a JSON file of sizes") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f'{path}: not JSON ({error}); write {{"name.safetensors": "9.8GB"}}') from error
    if not isinstance(data, dict):
        raise UsageError(f'{path}: a JSON {type(data).__name__}, not an object; write {{"name.safetensors": "9.8GB"}}')
    return {name: parse_size(value, f"{path}: {name}") for name, value in data.items()}


def program(prepared: list[Prepared], queued: bool = True, repeats: int = 1) -> Program:
    """The workflows as prompts in their order, all of them `repeats` times."""
    parts: dict[str, Component] = {}
    for one in prepared:
        parts.update(one.prediction.components)
    prompts = tuple(one.steps for one in prepared) * repeats
    return Program(", ".join(one.name for one in prepared), parts, prompts, queued=queued)


def _steps(workflow: Workflow, prediction: Prediction, known: Known) -> tuple[Step, ...]:
    steps = []
    for position, visit in enumerate(prediction.timeline.visits):
        uses = prediction.timeline.at(position)
        keys = tuple(dict.fromkeys(use.component for use in uses if use.kind is UseKind.COMPUTE))
        samples = any(prediction.components[key].kind == "MODEL" for key in keys)
        passes = sampler_passes(workflow.prompt, visit.node_id) if samples else 1
        needs_bytes = known.working_set_bytes.get(visit.node_id, 0)
        steps.append(Step(visit.node_id, visit.class_type, known.compute_s.get(visit.node_id, 0.0), keys, passes, needs_bytes))
    return tuple(steps)


def _known(workflow: Workflow, prediction: Prediction, database: Path | None) -> Known:
    if database is None:
        return Known({}, {})
    profiles = Profiles.open(database)
    try:
        classes: list[dict[str, Any]] = profiles.summary()["classes"]
        if not classes:
            return Known({}, {})
        used: dict[str, set[str]] = {}
        for use in prediction.timeline.uses:
            used.setdefault(prediction.timeline.visits[use.position].node_id, set()).add(use.component)
        keys = node_keys(workflow.prompt, str(classes[0]["environment"]), used)  # the one that ran last
        durations = {node_id: profiles.duration(key) for node_id, key in keys.items()}
        peaks = {node_id: profiles.peak(key) for node_id, key in keys.items()}
    finally:
        profiles.close()
    seconds = {node_id: one.value for node_id, one in durations.items() if one is not None}
    return Known(seconds, {node_id: int(one.high) for node_id, one in peaks.items() if one is not None})


def disk_rate(options: argparse.Namespace) -> float | None:
    """The fastest drive that the profiles know; None where they know none."""
    database = _database(options, find_comfyui())
    if database is None:
        return None
    profiles = Profiles.open(database)
    try:
        return max((float(one["value"]) for one in profiles.summary()["rates"]), default=None)
    finally:
        profiles.close()


def _database(options: argparse.Namespace, found: ComfyUI | None) -> Path | None:
    """The file of the profiles; None where there is none."""
    path: Path | None = options.database or (database_in(found.path / "user") if found else None)
    return path if path is not None and path.is_file() else None
