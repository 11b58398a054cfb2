"""The scenarios of benchmarks on the H100 (2026-11-23), as programs, with stock ComfyUI 0.33's times.

Workflow "two experts": text encode (CLIP-L and T5-XXL) -> sampler A -> sampler B -> VAE decode -> save. Compute times are the same
workflow's with everything resident; bytes are the files'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from ..core.component import Component
from .machine import GB, GIB, H100, H100_LATER, Machine
from .workload import Program, Step

# Resident compute of bf16: 8.6 s, 4.1 s of it in sampler A, as much in B. fp8 (10.3 s resident): the difference is the samplers'.
TEXT_S, SAMPLER_S, DECODE_S = 0.1, 4.1, 0.3
FP8_SAMPLER_S = SAMPLER_S + (10.3 - 8.6) / 2
# The same on the machine of 2026-11-28: 8.08 s of bf16 (S4), 9.33 of fp8 (what C5's trace tells beside its stall).
NEWEST_SAMPLER_S, NEWEST_FP8_SAMPLER_S = (8.08 - TEXT_S - DECODE_S) / 2, (9.33 - TEXT_S - DECODE_S) / 2
ALL_RAM_BYTES = 1267 * GB // 10
STEPS = 20
# Not measured: activations of a 1024 x 1024 sampler step and decode, and of the text encoder.
SAMPLER_WORKING_BYTES, DECODE_WORKING_BYTES, TEXT_WORKING_BYTES = 3 * GB // 2, 2 * GB, GB // 2

SIZES = {"text encoder": 98 * GB // 10, "expert A": 238 * GB // 10, "expert B": 238 * GB // 10, "vae": 2 * GB // 10}
FP8_SIZES = {**SIZES, "expert A": 119 * GB // 10, "expert B": 119 * GB // 10}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`warm_up` prompts run before the measured ones. `measured_s` is stock ComfyUI's time, the mean of `runs_s`; `pack_runs_s` are the
    pack's."""

    name: str
    what: str
    machine: Machine
    program: Program
    runs_s: tuple[float, ...]
    warm_up: int = 0
    pack_runs_s: tuple[float, ...] = ()

    @property
    def measured_s(self) -> float:
        return sum(self.runs_s) / len(self.runs_s)

    @property
    def pack_measured_s(self) -> float | None:
        """The median, as docs/benchmarks.md tells it; None where the pack was not measured."""
        return median(self.pack_runs_s) if self.pack_runs_s else None


def two_experts(prompts: int, sizes: dict[str, int] | None = None, sampler_s: float = SAMPLER_S) -> Program:
    """That many prompts with a new text each, queued one after the other has ended."""
    components = {key: Component(key, key, "MODEL", size) for key, size in (sizes or SIZES).items()}
    prompt = (
        Step("4", "CLIPTextEncode", TEXT_S, ("text encoder",), working_set_bytes=TEXT_WORKING_BYTES),
        Step("6", "KSampler", sampler_s, ("expert A",), STEPS, SAMPLER_WORKING_BYTES),
        Step("10", "KSampler", sampler_s, ("expert B",), STEPS, SAMPLER_WORKING_BYTES),
        Step("7", "VAEDecode", DECODE_S, ("vae",), working_set_bytes=DECODE_WORKING_BYTES),
    )
    return Program("two experts", components, (prompt,) * prompts, queued=False)


def one_expert(prompts: int, sizes: dict[str, int] | None = None, sampler_s: float = SAMPLER_S) -> Program:
    """The same with the first of the experts alone."""
    whole = two_experts(prompts, sizes, sampler_s)
    prompt = tuple(step for step in whole.prompts[0] if step.components != ("expert B",))
    components = {key: component for key, component in whole.components.items() if key != "expert B"}
    return Program("one expert", components, (prompt,) * prompts, queued=False)


def scenarios(machine: Machine = H100) -> Sequence[Scenario]:
    """S1 to S4 and S3b. S5 runs ComfyUI's legacy patcher, which is not modelled: its pageable copies back were never measured."""
    short = replace(machine, device_bytes=24 * GB)
    scarce = replace(short, host_bytes=42 * GB)
    warm, fp8 = two_experts(3), two_experts(3, FP8_SIZES, FP8_SAMPLER_S)
    return (
        Scenario("S1", "cold, 80 GB free on the device", machine, two_experts(1), (69.3,)),
        Scenario("S1-24", "cold, 24 GB free on the device", short, two_experts(1), (69.2,)),
        Scenario("S2", "42 GB of RAM and 24 GB on the device free, warm, new text", scarce, warm, (37.6, 33.4), 2),
        Scenario("S3", "24 GB on the device free, RAM ample, warm, new text", short, warm, (12.4, 11.5), 2),
        Scenario("S3b", "the same with fp8 experts", short, fp8, (11.5, 11.2), 2),
        Scenario("S3b-cold", "fp8 experts, 24 GB, cold", short, two_experts(1, FP8_SIZES, FP8_SAMPLER_S), (48.9,)),
        Scenario("S4", "80 GB free on the device, warm, new text", machine, warm, (8.6, 8.9), 2),
    )


def scarce_memory() -> Scenario:
    """S2 as docs/benchmarks.md tells it: two prompts of each side behind two warm-ups. Of 42 GB of RAM 2.7 are the server's own: 4 GB of
    the first machine's were not free for weights, 1.3 of them the system's (133.9 of 135.1 GB were available without a server)."""
    machine = replace(H100_LATER, device_bytes=24 * GIB, host_bytes=393 * GB // 10, budget_floor_bytes=GIB)
    what = "42 GB of RAM and 24 GiB on the device free, warm, new text"
    return Scenario("S2", what, machine, two_experts(4), (38.38, 33.41), 2, (11.57, 10.99))


def short_of_both() -> Scenario:
    """Not measured: a video model's two experts with LoRAs, in two steps each, on a card of 12 GiB. 38 GB of weights in 9.4 GB of the
    device, 20 of RAM, and 4 of page cache in the 5 GB that copies leave."""
    sizes = {"text encoder": 67 * GB // 10, "expert A": 155 * GB // 10, "expert B": 155 * GB // 10, "vae": GB // 4}
    whole = two_experts(4, sizes, 3.0)
    prompt = tuple(replace(step, passes=2, working_set_bytes=3 * GB) if step.passes > 1 else step for step in whole.prompts[0])
    machine = replace(_later(12 * GIB, 28 * GB), idle_floor_bytes=5 * GB, pin_floor_bytes=5 * GB // 2)
    return Scenario("short", "two experts of 15.5 GB that fit no place, warm", machine, replace(whole, prompts=(prompt,) * 4), (), 1)


def video_with_loras(prompts: int) -> Program:
    """Wan 2.2 as the bench's family has it, two steps of each expert. Compute times are what a trace told beside its stall, working sets
    what it had seen; nobody has measured the prompt with everything resident."""
    sizes = {"umt5": 6.73, "high": 14.53, "high's LoRA": 1.23, "low": 14.53, "low's LoRA": 1.23, "vae": 0.25}
    prompt = (
        Step("2", "CLIPTextEncode", 0.49, ("umt5",), working_set_bytes=85 * GB // 100),
        Step("8", "KSamplerAdvanced", 3.22, ("high", "high's LoRA"), 2, 328 * GB // 100),
        Step("12", "KSamplerAdvanced", 2.91, ("low", "low's LoRA"), 2, 321 * GB // 100),
        Step("14", "VAEDecode", 0.84, ("vae",), working_set_bytes=52 * GB // 10),
        Step("15", "SaveImage", 3.56),
    )
    components = {key: Component(key, key, "MODEL", int(size * GB)) for key, size in sizes.items()}
    return Program("video with LoRAs", components, (prompt,) * prompts, queued=False)


def both_sides() -> Sequence[Scenario]:
    """The scenarios of docs/benchmarks.md that are modelled, with both sides' times there: each on H100_LATER, with the best rate of the
    drive and the link's as its own run has measured them. Those named "-later" are of 2026-11-25, of the pack as it was then; the rest of
    2026-11-28, on a machine of the kind that computes quicker. Not modelled: the legacy patcher (S5), patched weights (S6), and results
    that ComfyUI's cache drops between prompts (S7)."""
    fp8_later, fp8, bf16 = (FP8_SIZES, FP8_SAMPLER_S), (FP8_SIZES, NEWEST_FP8_SAMPLER_S), (SIZES, NEWEST_SAMPLER_S)
    plenty, small = _later(24 * GIB, ALL_RAM_BYTES), _later(24 * GIB, ALL_RAM_BYTES, 1.56, 54.8, 8.3)
    # as the pack found it when the prompt began: 23.8 GB pinned, room for 3.7 of page cache, 1 GiB kept free; 10.7 GB of the device
    video = _later(12 * GIB, 313 * GB // 10, 1.07, 55.2, 7.7)
    video = replace(video, device_overhead_bytes=21 * GB // 10, idle_floor_bytes=2 * GIB, pin_floor_bytes=GIB)
    all_fits = replace(plenty, device_bytes=80 * GB)
    single = 1.43  # GB/s of stock's first passes in C3, cold: 34.4 GB in 33.8 s, of which 9.8 compute
    scarce, ample = _later(24 * GIB, 42 * GB, 1.97, 54.9, 8.2, single), _later(24 * GIB, ALL_RAM_BYTES, 2.48, 55.2, 9.5, single)
    class_1, class_2 = _later(12 * GIB, 32 * GB, 1.67, 54.5, 7.4, single), _later(8 * GIB, 24 * GB, 1.67, 54.5, 7.4, single)
    class_5 = _later(12 * GIB, 70 * GB, 1.72, 54.7, 8.8, single)
    everything, larger = replace(ample, device_bytes=80 * GB), replace(ample, device_bytes=16 * GIB)
    warm = two_experts(4, *bf16)
    return (
        Scenario("S1-later", "cold, 24 GiB free on the device", plenty, two_experts(1), (65.03,), 0, (43.79,)),
        replace(scarce_memory(), name="S2-later"),
        Scenario("S3b-later", "fp8 experts, 24 GiB, warm", small, two_experts(3, *fp8_later), (10.51, 11.33), 1, (9.89, 9.93)),
        Scenario("S8-later", "one model that fits, warm", all_fits, one_expert(3), (4.45, 4.49), 1, (4.36, 4.52)),
        Scenario("S2-new", "24 GiB, 42 GB of RAM, warm", scarce, warm, (30.86, 29.90, 29.95), 1, (10.55, 10.08, 10.07)),
        Scenario("S3-new", "24 GiB free on the device, RAM ample, warm", ample, two_experts(3, *bf16), (9.51, 9.47), 1, (8.70, 8.63)),
        Scenario("S4-new", "80 GB free on the device, warm", everything, two_experts(3, *bf16), (8.08, 8.09), 1, (8.17, 8.20)),
        Scenario("S9", "one model larger than 16 GiB, warm", larger, one_expert(3, *bf16), (7.05, 6.40), 1, (5.19, 5.28)),
        Scenario(
            "C1",
            "fp8 experts, 12 GiB, 32 GB of RAM, warm",
            class_1,
            two_experts(5, *fp8),
            (22.51, 20.79, 21.43, 21.73),
            1,
            (11.74, 10.89, 10.95, 10.69),
        ),
        Scenario(
            "C2",
            "one fp8 expert, 8 GiB, 24 GB of RAM, warm",
            class_2,
            one_expert(5, *fp8),
            (14.69, 13.26, 13.14, 13.23),
            1,
            (6.49, 5.74, 5.99, 6.03),
        ),
        Scenario(
            "C5", "fp8 experts, 12 GiB, 70 GB of RAM, warm", class_5, two_experts(4, *fp8), (10.40, 10.51, 10.42), 1, (10.06, 10.03, 9.90)
        ),
        Scenario(
            "Wan", "two experts with LoRAs, 12 GiB, 32 GB of RAM, warm", video, video_with_loras(2), (29.30, 25.71, 28.14), 1, (17.84,)
        ),
    )


def _later(
    device_bytes: int, ram_bytes: int, drive: float = 1.48, link: float = 54.2, pageable: float = 6.7, single: float = 1.01
) -> Machine:
    """H100_LATER with so much left free; 2.7 GB of the RAM are the server's own. Rates in GB/s."""
    return replace(
        H100_LATER,
        drives=(replace(H100_LATER.drives[0], read_bytes_per_s=drive * GB, single_bytes_per_s=single * GB),),
        device_bytes=device_bytes,
        host_bytes=ram_bytes - 27 * GB // 10,
        budget_floor_bytes=GIB,
        pinned_bytes_per_s=link * GB,
        pageable_bytes_per_s=pageable * GB,
    )
