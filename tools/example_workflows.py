"""Write example_workflows/*.json, the workflows that the pack offers in ComfyUI's template browser.

    python tools/example_workflows.py

Each is told here as nodes with their values and links, and written in the editor's format; widgets and sockets come from
residency/workflow/core_nodes.py. They use the small models that `python -m residency demo` makes: choose your own in the loaders.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from residency.settings.node_inputs import BY_NAME  # noqa: E402
from residency.workflow.core_nodes import core_nodes  # noqa: E402

Slot = tuple[int, int]

CHOOSE = (
    "\n\n**Choose your models first:** the names in the loaders are placeholders, so ComfyUI calls them missing. {what} "
    "None here yet? Open one of ComfyUI's own templates of that family: it offers its files for download; choose them here."
)
ONE = "Any diffusion model will do, with the text encoder and the VAE of its family."
TWO = "Any two diffusion models of one family will do, with its text encoder and VAE (Wan 2.2 has a high-noise and a low-noise one)."
CONTROLLED = "Any diffusion model will do, with the text encoder, VAE, ControlNet and LoRA made for its family."

A, B = "residency_expert_a.safetensors", "residency_expert_b.safetensors"
_WIDTH, _COLUMN, _ROW = 330, 380, 60


class Sheet:
    """One workflow: `node` adds a node and returns its id; a (node, slot) among the values is a link."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[dict[str, Any]] = []
        self._links: list[list[Any]] = []
        self._bottom: dict[int, int] = {}

    def node(self, column: int, class_type: str, title: str | None = None, **values: Any) -> int:
        known = core_nodes()[class_type]
        node_id = len(self._nodes) + 1
        inputs: list[dict[str, Any]] = []
        for name, kind in known.sockets.items():
            link = None
            if name in values:
                origin, slot = values.pop(name)
                link = self._link(origin, slot, node_id, len(inputs))
                kind = self._kind(origin, slot) if kind in ("*", "COMFY_MATCHTYPE_V3") else kind
            inputs.append({"name": name, "type": "*" if kind == "COMFY_MATCHTYPE_V3" else kind, "link": link})
        outputs = [
            {"name": kind, "type": inputs[0]["type"] if kind == "COMFY_MATCHTYPE_V3" else kind, "slot_index": slot, "links": []}
            for slot, kind in enumerate(known.traits.outputs)
        ]
        saved = [self._value(widget, values) for widget in known.widgets]
        if values:
            raise ValueError(f"{class_type} has no input {', '.join(values)}")
        return self._add(column, class_type, title, inputs, outputs, saved, height=60 + 24 * (len(saved) + max(len(inputs), len(outputs))))

    def note(self, column: int, text: str, what: str) -> None:
        """`what`: the models that fit the workflow."""
        self._add(column, "MarkdownNote", None, [], [], [text + CHOOSE.format(what=what)], height=320)

    def saved(self) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"residency/{self.name}")),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": self._links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    @staticmethod
    def _value(widget: Any, values: dict[str, Any]) -> Any:
        if widget is None:
            return "fixed"  # what the editor does with a seed after each run
        if widget in values:
            return values.pop(widget)
        if widget in BY_NAME:
            return BY_NAME[widget].default
        return {"mode": "auto", "host_budget_gib": 0.0, "device_budget_gib": 0.0}[widget]

    def _kind(self, origin: int, slot: int) -> Any:
        return self._nodes[origin - 1]["outputs"][slot]["type"]

    def _link(self, origin: int, slot: int, target: int, target_slot: int) -> int:
        link_id = len(self._links) + 1
        output = self._nodes[origin - 1]["outputs"][slot]
        output["links"].append(link_id)
        self._links.append([link_id, origin, slot, target, target_slot, output["type"]])
        return link_id

    def _add(self, column: int, class_type: str, title: str | None, inputs: Any, outputs: Any, saved: Any, height: int) -> int:
        top = self._bottom.get(column, _ROW)
        self._bottom[column] = top + height + 60
        node = {
            "id": len(self._nodes) + 1,
            "type": class_type,
            "pos": [40 + column * _COLUMN, top],
            "size": [_WIDTH, height],
            "flags": {},
            "order": len(self._nodes),
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            **({"title": title} if title else {}),
            "properties": {} if class_type == "MarkdownNote" else {"Node name for S&R": class_type},
            "widgets_values": saved,
        }
        self._nodes.append(node)
        return node["id"]


def _clip_and_vae(sheet: Sheet) -> tuple[int, int]:
    clip = sheet.node(0, "ResidencyCLIPLoader", clip_name="residency_clip_l.safetensors", type="stable_diffusion", device="default")
    return clip, sheet.node(0, "ResidencyVAELoader", vae_name="residency_tae.safetensors")


def _expert(sheet: Sheet, column: int, name: str, title: str, **more: Any) -> int:
    return sheet.node(column, "ResidencyUNETLoader", title, unet_name=name, weight_dtype="default", **more)


def _texts(sheet: Sheet, clip: int, text: str) -> tuple[int, int]:
    positive = sheet.node(1, "ResidencyCLIPTextEncode", "Prompt", clip=(clip, 0), text=text)
    return positive, sheet.node(1, "ResidencyCLIPTextEncode", "Negative prompt", clip=(clip, 0), text="")


def _latent(sheet: Sheet, frames: int = 1) -> int:
    return sheet.node(1, "EmptySD3LatentImage", width=256, height=256, batch_size=frames)


_SAMPLING = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


def _sampler(sheet: Sheet, column: int, title: str, model: Slot, positive: Slot, negative: Slot, latent: Slot, denoise: float = 1.0) -> int:
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return sheet.node(column, "ResidencyKSampler", title, seed=7, steps=2, denoise=denoise, **_SAMPLING, **links)


def two_stages(sheet: Sheet, column: int, high: Slot, low: Slot, latent: Slot, switch: int, **steps: Any) -> int:
    """Two samplers in columns beside each other that share the steps: one expert before step `switch`, the other from there on."""

    def stage(number: int, title: str, noise: str, first: int, end: int, **links: Slot) -> int:
        noises = {"add_noise": noise, "return_with_leftover_noise": noise}
        return sheet.node(
            column + number, "ResidencyKSamplerAdvanced", title, start_at_step=first, end_at_step=end, **noises, **links, **steps
        )

    begun = stage(0, "High noise", "enable", 0, switch, model=high, latent_image=latent)
    return stage(1, "Low noise", "disable", switch, 10_000, model=low, latent_image=(begun, 0))


def single_model() -> Sheet:
    sheet = Sheet("single_model")
    model = _expert(sheet, 0, A, "Diffusion model")
    clip, vae = _clip_and_vae(sheet)
    positive, negative = _texts(sheet, clip, "a lighthouse above a calm sea")
    latent = _latent(sheet)
    sampled = _sampler(sheet, 2, "Sample", (model, 0), (positive, 0), (negative, 0), (latent, 0))
    sheet.node(2, "ResidencyMode", mode="auto")
    decoded = sheet.node(3, "ResidencyVAEDecode", samples=(sampled, 0), vae=(vae, 0))
    sheet.node(3, "SaveImage", images=(decoded, 0), filename_prefix="residency/single")
    sheet.note(
        3,
        "**One model.** The loaders are ComfyUI's own with memory settings: the mode, and more among the advanced inputs. While one file "
        "is read, the next is read ahead. Residency Mode sets the whole workflow; the Residency tab shows what happened.",
        ONE,
    )
    return sheet


def low_vram_video() -> Sheet:
    sheet = Sheet("low_vram_video")
    clip, vae = _clip_and_vae(sheet)
    high = _expert(sheet, 0, A, "High-noise expert")
    low = _expert(sheet, 0, B, "Low-noise expert")
    positive, negative = _texts(sheet, clip, "waves against a pier, a gull flies by")
    latent = _latent(sheet, frames=4)
    given_up = sheet.node(2, "ResidencyRelease", "Text encoder is done", value=(positive, 0), component=(clip, 0), where="device and host")
    steps = {"noise_seed": 7, "steps": 4, **_SAMPLING, "negative": (negative, 0), "positive": (given_up, 0)}
    second = two_stages(sheet, 2, (high, 0), (low, 0), (latent, 0), 2, **steps)
    sheet.node(3, "ResidencyMode", mode="low-vram")
    tiles = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    decoded = sheet.node(4, "ResidencyVAEDecodeTiled", samples=(second, 0), vae=(vae, 0), **tiles)
    sheet.node(4, "SaveImage", images=(decoded, 0), filename_prefix="residency/frame")
    sheet.note(
        4,
        "**Video on a small card.** Two experts share the steps, the text encoder is released once the prompt is encoded, and the decoder "
        "works in tiles. Each expert leaves after its last step; the next one is read ahead meanwhile.",
        TWO,
    )
    return sheet


def mixed_models() -> Sheet:
    sheet = Sheet("mixed_models")
    clip, vae = _clip_and_vae(sheet)
    one = _expert(sheet, 0, A, "Model A", priority=1)
    other = _expert(sheet, 0, B, "Model B")
    positive, negative = _texts(sheet, clip, "a red boat")
    latent = _latent(sheet)
    drafted = _sampler(sheet, 2, "Sample with A", (one, 0), (positive, 0), (negative, 0), (latent, 0))
    asked = sheet.node(2, "ResidencyPrefetch", "B is next", value=(drafted, 0), component=(other, 0))
    refined = _sampler(sheet, 3, "Refine with B", (other, 0), (positive, 0), (negative, 0), (asked, 0), 0.6)
    sheet.node(3, "ResidencyKeep", "Keep 20 GiB for the next prompts", keep_gib=20.0)
    for title, latents in (("A", drafted), ("B", refined)):
        decoded = sheet.node(4, "ResidencyVAEDecode", f"Decode {title}", samples=(latents, 0), vae=(vae, 0))
        sheet.node(4, "SaveImage", images=(decoded, 0), filename_prefix=f"residency/mixed_{title.lower()}")
    sheet.note(
        3,
        "**A queue of different models.** Queue this and others behind it: the order of the whole queue decides what is read ahead and "
        "what leaves. Keep holds up to its limit in RAM between prompts; the number on a loader says who leaves last.",
        TWO,
    )
    return sheet


def controlnet_lora() -> Sheet:
    sheet = Sheet("controlnet_lora")
    model = _expert(sheet, 0, A, "Diffusion model")
    clip, vae = _clip_and_vae(sheet)
    control = sheet.node(0, "ResidencyControlNetLoader", control_net_name="residency_control.safetensors")
    lora = sheet.node(1, "ResidencyLoraLoaderModelOnly", model=(model, 0), lora_name="residency_lora.safetensors", strength_model=0.8)
    placed = sheet.node(1, "ResidencyPolicy", "The ControlNet may leave first", value=(control, 0), memory_mode="low-vram", priority=-1)
    positive, negative = _texts(sheet, clip, "an old stone bridge")
    latent = _latent(sheet)
    hint = sheet.node(2, "EmptyImage", "Hint", width=256, height=256, batch_size=1, color=8421504)
    applied = sheet.node(
        2,
        "ControlNetApplyAdvanced",
        positive=(positive, 0),
        negative=(negative, 0),
        control_net=(placed, 0),
        image=(hint, 0),
        strength=0.7,
        start_percent=0.0,
        end_percent=1.0,
    )
    sampled = _sampler(sheet, 3, "Sample", (lora, 0), (applied, 0), (applied, 1), (latent, 0))
    sheet.node(3, "ResidencyMode", mode="balanced")
    decoded = sheet.node(4, "ResidencyVAEDecode", samples=(sampled, 0), vae=(vae, 0))
    sheet.node(4, "SaveImage", images=(decoded, 0), filename_prefix="residency/controlnet")
    sheet.note(
        4,
        "**ControlNet and LoRA.** Both are files of their own and are read ahead like the rest. The policy speaks for what flows through "
        "it: when something has to leave, the ControlNet goes first.",
        CONTROLLED,
    )
    return sheet


def main() -> None:
    for make in (single_model, low_vram_video, mixed_models, controlnet_lora):
        sheet = make()
        path = ROOT / "example_workflows" / f"{sheet.name}.json"
        path.write_text(json.dumps(sheet.saved(), indent=1) + "\n", encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
