"""Which files a scenario needs, and having them made by the Python that runs ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comfyui.sample_models.families import FAMILIES
from ..comfyui.sample_models.tiny import expert_shape
from ..installation import maker
from ..installation.locate import PACK, ComfyUI
from .scenarios import Precision, Scenario, Size, Workflow

PREFIX = "residency_bench"
FLUX_DEV = (3072, 19, 38, 4096)  # hidden size, double blocks, single blocks, context: 23.8 GB in 16 bit
OTHER = (3072, 10, 20, 768)  # 6 GB in 8 bit
EXPERT_MIB = {Size.TINY: 12, Size.SMALL: 300}
_DTYPES = {Precision.BF16: "bfloat16", Precision.FP8: "float8_e4m3fn"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file: its folder below the models folder, its name, and the recipe by which random_models.py makes it; of a family, whose files
    families.py makes, its name as the recipe and no more."""

    folder: str
    name: str
    recipe: str
    dtype: str = ""
    seed: int = 0
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)

    def at(self, models: Path) -> Path:
        return models / self.folder / self.name


@dataclass(frozen=True, slots=True)
class Family:
    """The files that one workflow may use. `encoders` is CLIP-L, and T5-XXL behind it where the models are of real size."""

    expert_a: ModelFile
    expert_b: ModelFile
    encoders: tuple[ModelFile, ...]
    vae: ModelFile
    lora: ModelFile

    def files(self, workflow: Workflow) -> tuple[ModelFile, ...]:
        """In the order of their use."""
        experts = {Workflow.ONE_A: (self.expert_a,), Workflow.ONE_B: (self.expert_b,), Workflow.TWO: (self.expert_a, self.expert_b)}
        drawing = experts.get(workflow, (self.lora, self.expert_a, self.expert_b))
        return (*self.encoders, *drawing, self.vae)


def family(size: Size, precision: Precision) -> Family:
    full = size is Size.FULL
    shape = FLUX_DEV if full else (*expert_shape(EXPERT_MIB[size]), 768)

    def file(folder: str, what: str, recipe: str, dtype: str, seed: int) -> ModelFile:
        return ModelFile(folder, f"{PREFIX}_{what}.safetensors", recipe, dtype, seed, shape)

    def expert(which: str, seed: int) -> ModelFile:
        return file("diffusion_models", f"expert_{which}_{precision.value}", "flux", _DTYPES[precision], seed)

    clip_l = file("text_encoders", "clip_l", "clip_l", "float16", 3)
    t5 = file("text_encoders", "t5xxl", "t5xxl", "float16", 4)
    vae = file("vae", "vae", "vae", "bfloat16", 5) if full else file("vae", "tae", "tae", "float16", 5)
    encoders = (clip_l, t5) if full else (clip_l,)
    return Family(expert("a", 1), expert("b", 2), encoders, vae, file("loras", "lora", "lora", "bfloat16", 6))


def other(size: Size) -> Family:
    """The files of the workflow that a family is switched to and back from: one expert, which CLIP-L alone speaks to."""
    whole = family(size, Precision.FP8)
    shape = OTHER if size is Size.FULL else whole.expert_a.shape
    expert = ModelFile("diffusion_models", f"{PREFIX}_other_fp8.safetensors", "flux", _DTYPES[Precision.FP8], 7, shape)
    return Family(expert, expert, whole.encoders[:1], whole.vae, whole.lora)


def family_files(name: str) -> tuple[ModelFile, ...]:
    """Of one of the families that people run; the same names in every size."""
    return tuple(ModelFile(folder, file, name) for folder, file in (path.rsplit("/", 1) for path in FAMILIES[name]))


def files_of(scenario: Scenario, size: Size) -> tuple[ModelFile, ...]:
    """Every file that the scenario's queue uses, each once, in the order of first use."""
    if scenario.family:
        switched = other(size).files(Workflow.ONE_A) if Workflow.OTHER in scenario.queue else ()
        return (*family_files(scenario.family), *switched)
    mine = family(size, scenario.precision)
    return tuple(dict.fromkeys(one for workflow in scenario.queue for one in mine.files(workflow)))


def make(comfyui: ComfyUI, models: Path, size: Size, wanted: Iterable[ModelFile], spare: Iterable[ModelFile], say: Say) -> bool:
    """Make the files that are missing; where the disk is short, spare ones are removed. Whether any was made.

    Raises ServerError with the maker's words.
    """
    missing = [one for one in wanted if not one.at(models).exists()]
    if not missing:
        return False

    def recipe(one: ModelFile) -> dict[str, Any]:
        return {"path": str(one.at(models)), "recipe": one.recipe, "dtype": one.dtype, "seed": one.seed, "shape": one.shape}

    spare_paths = [str(one.at(models)) for one in spare]
    asked = {"make": [recipe(one) for one in missing if one.recipe not in FAMILIES], "spare": spare_paths}
    families = dict.fromkeys(one.recipe for one in missing if one.recipe in FAMILIES)

    def made(name: str, done_bytes: int, total_bytes: int) -> None:
        say(f"making models, {done_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB: {name}")

    package, where = "residency.comfyui.sample_models", str(comfyui.path.resolve())
    if families:
        full = ["full"] if size is Size.FULL else []
        words = [where, str(models), *full, *(f"spare={path}" for path in spare_paths), *families]
        maker.make(comfyui, ["-m", f"{package}.families", *words], made, say, PACK)
    if asked["make"]:
        maker.make(comfyui, ["-m", f"{package}.random_models", where, json.dumps(asked)], made, say, PACK)
    return True
