"""A long life of one real server. Mixed prompts run while a user who is drawn from a seed interrupts, edits the queue, changes modes,
settings and files, and has memory freed; images are ComfyUI's own, and memory, threads, handles and pins stay where they were.

    python tests/comfyui/soak.py --prompts 1000                  # on the CPU, with models of 12 MiB
    python tests/comfyui/soak.py --minutes 10 --vram-gib 8       # on a GPU, of which another process holds all but that
    python tests/comfyui/soak.py --seed 7 --prompts 200 --story  # the same user again, told act by act

`--picture FILE` draws the curves (SVG), `--record` writes the run's figures where docs/reliability.md takes them from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # ComfyUI's own Python may run it, in which this is not installed

from comfy_story import asking, drop_pages, forget, mode, pixels, two_experts, with_controlnet, with_lora, with_ours
from curves import Curve, draw
from totals import record

from residency.bench.limits import held
from residency.bench.scenarios import Limits
from residency.installation.locate import ComfyUI, find_comfyui
from residency.installation.server_process import Server, ServerError, serve

PACKS = [Path(__file__).with_name("packs") / name for name in ("gauges", "cleanup")]
MAKER = Path(__file__).parents[2] / "residency" / "comfyui" / "sample_models" / "tiny.py"
CHANGED = "diffusion_models/residency_expert_b.safetensors"
OTHER = "diffusion_models/residency_expert_a.safetensors"
MIB, GIB = 2**20, 2**30

REST, REST_S = 25, 20.0  # prompts, or seconds, between two looks at a server that does nothing
SETTLED = 0.2  # of the looks: what is made once has been made by then
# glibc keeps what is freed: 0.85 GB at rest after 25 prompts and 1.2 GB after 190, with these 0.61 GB at each look (the same seed).
RETURNED = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SLACK, SLACK_BYTES = 0.05, 48 * MIB  # of memory, the larger: what allocators keep differs by so much from look to look
END_S = 300.0
MODES = ("auto", "high-vram", "balanced", "low-vram", "off")
SEEDS = (1, 2)


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels and steps of each prompt: large enough that an interrupt finds it at work."""

    side: int
    steps: int
    expert_mib: int


TINY = Size(64, 2, 12)
LARGE = Size(512, 4, 4500)  # two experts do not fit into 8 GiB of VRAM


class SoakError(AssertionError):
    """Something that must hold does not; the message names it."""


# --- prompts ---


def expert_b(prompt: dict[str, Any]) -> dict[str, Any]:
    """Expert b alone."""
    del prompt["1"], prompt["6"]
    prompt["8"]["inputs"] |= {"latent_image": ["5", 0], "denoise": 1.0}
    return prompt


def cleaned(prompt: dict[str, Any]) -> dict[str, Any]:
    """A stranger's node frees all that it can in the middle."""
    prompt["20"] = {"class_type": "FreeMemory", "inputs": {"anything": ["4", 0], "take": 1, "pages": "some"}}
    prompt["6"]["inputs"]["positive"] = ["20", 0]
    return prompt


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "two experts": lambda prompt: prompt,
    "LoRA": with_lora,
    "ControlNet": with_controlnet,
    "expert b": expert_b,
    "cleanup node": cleaned,
}
OURS = {"our nodes": lambda prompt: with_ours(prompt), "asking nodes": asking}
SAME_IMAGE = dict.fromkeys(OURS, "two experts")  # as these of ComfyUI's own nodes


@dataclass(slots=True)
class Soak:
    """One run. `images` of ComfyUI without the pack: by kind, seed and file, those that a prompt may give."""

    server: Server
    models: Path
    size: Size
    draw: random.Random
    tell: Callable[[str], object]
    images: dict[tuple[str, int], set[bytes]]
    acts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    looks: list[dict[str, Any]] = field(default_factory=list)
    prompts: int = 0
    log_begins: int = 0
    started_s: float = field(default_factory=time.monotonic)
    takes: itertools.count[int] = field(default_factory=itertools.count)

    def go_on(self, prompts: int | None, seconds: float | None) -> None:
        """Rounds until so many prompts were queued, or so much time is over. Raises SoakError."""
        self.log_begins = len(self.server.log.read_text(encoding="utf-8", errors="replace"))
        self.rest()
        rested_s = time.monotonic()
        while (prompts is None or self.prompts < prompts) and (seconds is None or time.monotonic() - self.started_s < seconds):
            self.round()
            if self.prompts >= self.looks[-1]["prompts"] + REST or time.monotonic() >= rested_s + REST_S:
                self.rest()
                rested_s = time.monotonic()
        self.rest()

    def round(self) -> None:
        """A queue, what the user does meanwhile, and what has come of each prompt."""
        draw, asked = self.draw, {}
        for _ in range(draw.choice((1, 1, 2, 3, 5))):
            kind, seed = draw.choice([*KINDS, *OURS]), draw.choice(SEEDS)
            prompt = self.prompt(kind, seed)
            extra = mode(draw.choice(MODES)) if draw.random() < 0.3 else {}
            prompt_id = json.loads(self.server.post("/prompt", {"prompt": prompt, "extra_data": extra}))["prompt_id"]
            asked[prompt_id] = kind, seed
            self.tell(f"queue {kind}, seed {seed}, {extra or 'no mode'}: {prompt_id}")
        self.prompts += len(asked)
        stops: set[str] = set()
        for _ in range(draw.choice((0, 1, 1, 2, 4))):
            time.sleep(draw.random() * 0.8)
            act = draw.choice(self.user)
            self.tell(act.__name__)
            self.acts[act.__name__.replace("_", " ")] += 1
            stops.add(act(self, list(asked)) or "")
        self.until(lambda: self.server.get_json("/prompt")["exec_info"]["queue_remaining"] == 0)
        for prompt_id, (kind, seed) in asked.items():
            self.outcomes[self.outcome(prompt_id, kind, seed, stops)] += 1

    def prompt(self, kind: str, seed: int) -> dict[str, Any]:
        prompt = (KINDS | OURS)[kind](two_experts(seed, self.size.side, self.size.steps))
        prompt["10"]["inputs"]["filename_prefix"] = f"soak{next(self.takes)}"  # else nothing of a repeated prompt would run
        return prompt

    def outcome(self, prompt_id: str, kind: str, seed: int, stops: set[str]) -> str:
        """In one word. Raises SoakError for an image that is not ComfyUI's, an error, or a prompt that is gone."""
        entry = self.server.get_json(f"/history/{prompt_id}").get(prompt_id)
        what = f"{kind}, seed {seed}, prompt {self.prompts}"
        if entry is None:
            self.must("deleted" in stops, f"{what} is gone, and nobody has deleted it")
            return "deleted"
        messages = [event for event, _ in entry["status"]["messages"]]
        self.must("execution_error" not in messages, f"{what} failed: {entry['status']['messages'][-1]}")
        if "execution_interrupted" in messages:
            self.must("interrupted" in stops, f"{what} was interrupted, and by nobody")
            return "interrupted"
        drawn = {pixels(image) for image in self.server.images(prompt_id)}
        self.must(len(drawn) == 1 and drawn <= self.images[SAME_IMAGE.get(kind, kind), seed], f"{what} gave an image that is not ComfyUI's")
        return "right images"

    # --- what the user does; the word that an act returns allows outcomes ---

    def interrupt(self, asked: list[str]) -> str:
        self.server.post("/interrupt", {})
        return "interrupted"

    def delete_one(self, asked: list[str]) -> str:
        self.server.post("/queue", {"delete": [self.draw.choice(asked)]})
        return "deleted"

    def clear_the_queue(self, asked: list[str]) -> str:
        self.server.post("/queue", {"clear": True})
        return "deleted"

    def change_the_mode(self, asked: list[str]) -> None:
        self.server.post("/residency/mode", {"mode": self.draw.choice(MODES)})

    def switch_off_and_on(self, asked: list[str]) -> None:
        self.server.post("/residency/mode", {"mode": "off"})
        self.server.post("/residency/mode", {"mode": "auto"})

    def change_settings(self, asked: list[str]) -> None:
        draw = self.draw
        settings = {
            "read_threads": draw.choice((0, 1, 2, 6)),
            "queue_depth": draw.choice((0, 1, 3, 8)),
            "ram_budget_gib": draw.choice((0, 0, 0.05, 1)),
            "pin_budget_gib": draw.choice((0, 0, 1)),
            "vram_headroom_gib": draw.choice((0, 0, 1)),
        }
        self.server.post("/residency/settings", settings)

    def free_memory(self, asked: list[str]) -> None:
        self.server.post("/free", {"unload_models": True, "free_memory": self.draw.random() < 0.5})

    def replace_a_file(self, asked: list[str]) -> None:
        """Expert b is another file from now on, at once and whole, as programs replace them."""
        lies_there(self.models, self.draw.choice(VARIANTS))

    def touch_a_file(self, asked: list[str]) -> None:
        os.utime(self.draw.choice(sorted(self.models.glob("*/*.safetensors"))))

    def lose_the_page_cache(self, asked: list[str]) -> None:
        drop_pages(self.models)

    def look_at_the_panel(self, asked: list[str]) -> None:
        for path in ("status", "trace", "traces", "settings", "doctor"):
            self.server.get(f"/residency/{path}")

    user = (
        interrupt, interrupt, delete_one, clear_the_queue, change_the_mode, switch_off_and_on, change_settings, free_memory, replace_a_file,
        touch_a_file, lose_the_page_cache, look_at_the_panel,
    )  # fmt: skip

    # --- a server that does nothing ---

    def rest(self) -> None:
        """Nothing is loaded, nothing cached, nothing told of what was: look at what is taken all the same."""
        self.server.post("/residency/mode", {"mode": "auto"})
        forget(self.server)
        self.server.post("/history", {"clear": True})
        status = self.server.get_json("/residency/status")
        self.must(status["installed"] and not status["failures"], f"failures of the pack: {status}")
        self.must(not status["contained_failures"], f"failures that the pack has contained: {status['contained_failures']}")
        log = self.server.log.read_text(encoding="utf-8", errors="replace")[self.log_begins :]
        self.must("Traceback" not in log, f"a traceback in the log:\n{log[max(0, log.find('Traceback') - 2000) :][:6000]}")
        self.until(lambda: not self.gauges()["files"])
        told = self.gauges()
        self.looks.append(told | {"prompts": self.prompts})
        self.tell(f"at rest after {self.prompts}: {told}")

    def gauges(self) -> dict[str, Any]:
        return dict(self.server.get_json("/gauges"))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + END_S
        while not condition():
            self.must(time.monotonic() < deadline_s, f"it never came; the log's end:\n{self.server.tail()}")
            time.sleep(0.05)

    def must(self, holds: object, else_: str) -> None:
        if not holds:
            raise SoakError(else_)

    def flat(self) -> None:
        """Threads, handles and memory at rest are no more in the last half than in the first, both without what was made once. Raises
        SoakError."""
        settled = self.looks[int(len(self.looks) * SETTLED) :]
        if len(settled) < 4:
            return
        first, last = settled[: len(settled) // 2], settled[len(settled) // 2 :]
        for name in ("threads", "handles", "pinned_bytes"):
            before, after = max(one[name] for one in first), statistics.median(one[name] for one in last)
            self.must(after <= before, f"{name} grow: {[one[name] for one in self.looks]}")
        ours = {name for one in settled for name in one["our_threads"]}
        self.must(not any(name.startswith("residency-read") for name in ours), f"threads that read are left: {ours}")
        for name in ("rss_bytes", "device_bytes"):
            before, after = (statistics.median(one[name] for one in some) for some in (first, last))
            self.must(after <= before + max(SLACK_BYTES, SLACK * before), f"{name} grow: {[one[name] // MIB for one in self.looks]} MiB")


VARIANTS = ("first", "second")


def lies_there(models: Path, variant: str) -> None:
    """Put that file where expert b is read from."""
    part = models / "part"
    part.unlink(missing_ok=True)
    os.link(models / "variants" / variant, part)
    os.replace(part, models / CHANGED)


def make_models(comfyui: ComfyUI, models: Path, size: Size) -> None:
    """Expert b in two variants, both the experts' size. Raises ServerError."""
    command = [str(comfyui.python), str(MAKER), str(comfyui.path), str(models), str(size.expert_mib), "more"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ServerError(made.stderr[-3000:])
    with_variants(models)


def with_variants(models: Path) -> None:
    (models / "variants").mkdir(exist_ok=True)
    for variant, name in zip(VARIANTS, (CHANGED, OTHER), strict=True):
        if not (models / "variants" / variant).exists():
            shutil.copy(models / name, models / "variants" / variant)


def stock_images(comfyui: ComfyUI, models: Path, size: Size, arguments: Sequence[str]) -> dict[tuple[str, int], set[bytes]]:
    """Images of ComfyUI without the pack: by kind and seed, one image for each file that may lie there."""
    images: dict[tuple[str, int], set[bytes]] = {}
    with serve(comfyui, models, arguments, pack=None, others=PACKS) as server:
        for variant in VARIANTS:
            lies_there(models, variant)
            forget(server)
            for kind, seed in itertools.product(KINDS, SEEDS):
                run = server.run(KINDS[kind](two_experts(seed, size.side, size.steps)))
                images.setdefault((kind, seed), set()).update(pixels(image) for image in run.images)
            forget(server)
    return images


def soak(
    comfyui: ComfyUI,
    models: Path,
    size: Size,
    arguments: Sequence[str],
    seed: int,
    prompts: int | None = None,
    seconds: float | None = None,
    tell: Callable[[str], object] = lambda line: None,
    asked: Sequence[str] = (),
) -> Soak:
    """Run it and hold it against what must be. `models`: as `make_models` makes them; files in there are replaced. A failure prints the
    command that tries the seed again, with what was `asked` besides. Raises SoakError."""
    images = stock_images(comfyui, models, size, arguments)
    # what two kinds or seeds have in common would hide which one was drawn
    if len(set().union(*images.values())) < len(KINDS) * len(SEEDS):
        raise SoakError("the images without the pack are not different ones")
    try:
        with serve(comfyui, models, arguments, others=PACKS, environment=RETURNED) as server:
            run = Soak(server, models, size, random.Random(seed), tell, images)
            run.go_on(prompts, seconds)
            run.flat()
    except BaseException:
        again = [*asked, *(["--prompts", str(prompts)] if prompts else []), "--seed", str(seed), "--story"]
        print(f"seed {seed} fails; to see it again: python tests/comfyui/soak.py {' '.join(again)}", flush=True)
        raise
    return run


def curves(run: Soak) -> list[Curve]:
    """The gauges of all looks, over the prompts that had run."""

    def of(name: str, title: str, unit: int = 1) -> Curve:
        return Curve(title, [(one["prompts"], one[name] / unit) for one in run.looks])

    shown = [of("rss_bytes", "memory of the process, MiB", MIB), of("threads", "threads"), of("handles", "handles")]
    if any(one["device_bytes"] for one in run.looks):
        shown += [of("pinned_bytes", "pinned memory, MiB", MIB), of("device_bytes", "device memory in use, MiB", MIB)]
    return shown


def summary(run: Soak, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "prompts": run.prompts,
        "minutes": round((time.monotonic() - run.started_s) / 60, 1),
        "outcomes": dict(run.outcomes.most_common()),
        "acts": dict(run.acts.most_common()),
        "first_rss_mib": run.looks[int(len(run.looks) * SETTLED)]["rss_bytes"] // MIB,
        "last_rss_mib": run.looks[-1]["rss_bytes"] // MIB,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A long life of one real server: images right; memory, threads, handles and pins flat.")
    parser.add_argument("--prompts", type=int, help="until so many prompts were queued (1000, without --minutes)")
    parser.add_argument("--minutes", type=float, help="until so much time is over")
    parser.add_argument("--seed", type=int, default=0, help="the user's (0)")
    parser.add_argument("--vram-gib", type=float, help="on a GPU, leaving so much of its memory free; without it on the CPU")
    parser.add_argument("--expert-mib", type=int, help=f"of each diffusion model ({TINY.expert_mib}; with --vram-gib {LARGE.expert_mib})")
    parser.add_argument("--models", type=Path, help="make the models in this folder, or use those there (a scratch folder)")
    parser.add_argument("--story", action="store_true", help="tell every act")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves into this SVG")
    parser.add_argument("--record", action="store_true", help="write the figures where docs/reliability.md takes them from")
    chosen = parser.parse_args(arguments)
    comfyui = find_comfyui()
    if comfyui is None:
        print("no ComfyUI found: set COMFYUI_PATH to its folder", file=sys.stderr)
        return 2
    gpu = chosen.vram_gib is not None
    size = LARGE if gpu else TINY
    size = Size(size.side, size.steps, chosen.expert_mib or size.expert_mib)
    prompts = chosen.prompts if chosen.prompts or chosen.minutes else 1000
    if not gpu:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # models so small only wait for a second thread
    with ExitStack() as stack:
        models = chosen.models or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        make_models(comfyui, models, size)
        if gpu:
            print(*stack.enter_context(held(Limits(int(chosen.vram_gib * GIB), None), comfyui)), sep="\n", flush=True)
        asked = [
            *(["--vram-gib", f"{chosen.vram_gib:g}"] if gpu else []),
            *(["--minutes", f"{chosen.minutes:g}"] if chosen.minutes else []),
        ]
        run = soak(
            comfyui,
            models,
            size,
            [] if gpu else ["--cpu"],
            chosen.seed,
            prompts,
            chosen.minutes and chosen.minutes * 60,
            lambda line: print(line, flush=True) if chosen.story or line.startswith("at rest") else None,
            asked,
        )
    told = summary(run, chosen.seed)
    print(json.dumps(told, indent=1))
    if chosen.picture:
        title = f"{run.prompts:,} prompts in {told['minutes']:g} minutes, seed {chosen.seed}: {'GPU' if gpu else 'CPU'}"
        chosen.picture.write_text(draw(title, "prompts", curves(run)), encoding="utf-8")
    if chosen.record:
        record("soak on a GPU" if gpu else "soak", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
