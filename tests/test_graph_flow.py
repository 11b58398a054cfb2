"""Which node computes with which component: told in prompts of ComfyUI's own node classes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from residency.graph import Allowance, Flow, NodeTraits, arrives, computes, likely
from residency.graph.flow import MOST_CARRIED
from residency.workflow.core_nodes import core_traits

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: str | bool) -> dict[str, Any]:
    """An input written "node" or "node.slot" is a link."""
    links = {}
    for name, value in inputs.items():
        source, _, slot = str(value).partition(".")
        links[name] = value if isinstance(value, bool) else [source, int(slot or 0)]
    return {"class_type": class_type, "inputs": links}


def flow(prompt: Prompt, loads: dict[str, Any], **options: Any) -> dict[str, tuple[str, ...]]:
    return computes(prompt, prompt, options.pop("traits", core_traits), loads, **options)


CHECKPOINT = (("model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE"))


def text_to_image() -> Prompt:
    return {
        "load": node("CheckpointLoaderSimple"),
        "yes": node("CLIPTextEncode", clip="load.1"),
        "no": node("CLIPTextEncode", clip="load.1"),
        "empty": node("EmptyLatentImage"),
        "sample": node("KSampler", model="load", positive="yes", negative="no", latent_image="empty"),
        "decode": node("VAEDecode", samples="sample", vae="load.2"),
        "save": node("SaveImage", images="decode"),
    }


def test_a_checkpoint_is_three_components_with_three_uses() -> None:
    assert flow(text_to_image(), {"load": CHECKPOINT}) == {"yes": ("clip",), "no": ("clip",), "sample": ("model",), "decode": ("vae",)}


def test_a_lora_flows_into_its_model_and_its_clip() -> None:
    prompt = text_to_image()
    prompt["lora"] = node("LoraLoader", model="load", clip="load.1")
    prompt["yes"]["inputs"]["clip"] = ["lora", 1]
    prompt["sample"]["inputs"]["model"] = ["lora", 0]
    found = flow(prompt, {"load": CHECKPOINT, "lora": (("lora", None),)})
    assert (found["yes"], found["no"], found["sample"], found["decode"]) == (("clip", "lora"), ("clip",), ("model", "lora"), ("vae",))


def test_a_controlnet_and_the_vae_it_encodes_with_are_used_in_the_sampler() -> None:
    prompt = text_to_image()
    prompt["cn"] = node("ControlNetLoader")
    prompt["apply"] = node("ControlNetApplyAdvanced", positive="yes", negative="no", control_net="cn", vae="load.2")
    prompt["sample"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
    found = flow(prompt, {"load": CHECKPOINT, "cn": (("control", "CONTROL_NET"),)})
    assert "apply" not in found
    assert found["sample"] == ("model", "control", "vae")


def test_a_guider_carries_model_and_conditioning_to_the_sampler_and_sigmas_need_no_weights() -> None:
    prompt = {
        "unet": node("UNETLoader"),
        "clip": node("CLIPLoader"),
        "cn": node("ControlNetLoader"),
        "text": node("CLIPTextEncode", clip="clip"),
        "control": node("ControlNetApply", conditioning="text", control_net="cn"),
        "guider": node("BasicGuider", model="unet", conditioning="control"),
        "sigmas": node("BasicScheduler", model="unet"),
        "sample": node("SamplerCustomAdvanced", guider="guider", sigmas="sigmas"),
    }
    found = flow(prompt, {"unet": (("unet", "MODEL"),), "clip": (("t5", "CLIP"),), "cn": (("cn", "CONTROL_NET"),)})
    assert found == {"text": ("t5",), "sample": ("unet", "cn")}


def test_conditioning_that_carries_a_controlnet_passes_image_to_video_nodes_untouched() -> None:
    prompt = {
        "cn": node("ControlNetLoader"),
        "vae": node("VAELoader"),
        "text": node("CLIPTextEncode"),
        "apply": node("ControlNetApply", conditioning="text", control_net="cn"),
        "picture": node("LoadImage"),
        "video": node("WanImageToVideo", positive="apply", negative="text", vae="vae", start_image="picture"),
    }
    assert flow(prompt, {"cn": (("cn", "CONTROL_NET"),), "vae": (("vae", "VAE"),)}) == {"video": ("vae",)}


def test_a_vae_is_used_while_a_model_patch_is_made_and_the_patch_in_the_sampler() -> None:
    prompt = {
        "unet": node("UNETLoader"),
        "patch": node("ModelPatchLoader"),
        "vae": node("VAELoader"),
        "control": node("QwenImageDiffsynthControlnet", model="unet", model_patch="patch", vae="vae"),
        "sample": node("KSampler", model="control"),
    }
    loads = {"unet": (("unet", "MODEL"),), "patch": (("patch", "MODEL_PATCH"),), "vae": (("vae", "VAE"),)}
    assert flow(prompt, loads) == {"control": ("vae",), "sample": ("unet", "patch")}


def test_a_lazy_switch_hands_on_the_branch_that_is_taken() -> None:
    prompt = {
        "a": node("UNETLoader"),
        "b": node("UNETLoader"),
        "switch": node("ComfySwitchNode", switch=True, on_true="a", on_false="b"),
        "sample": node("KSampler", model="switch"),
    }
    loads = {"a": (("a", "MODEL"),), "b": (("b", "MODEL"),)}
    assert flow(prompt, loads) == {"sample": ("a", "b")}
    assert flow(prompt, loads, wanted=likely(prompt.get, core_traits)) == {"sample": ("a",)}


def test_saving_a_model_computes_with_it() -> None:
    assert flow({"a": node("UNETLoader"), "s": node("ModelSave", model="a")}, {"a": (("a", "MODEL"),)}) == {"s": ("a",)}


CUSTOM = {
    "Loader": NodeTraits(("MODEL", "CLIP", "VAE")),
    "ToPipe": NodeTraits(("BASIC_PIPE",)),
    "FromPipe": NodeTraits(("BASIC_PIPE", "MODEL", "CLIP", "VAE")),
    "PipeSampler": NodeTraits(("BASIC_PIPE", "LATENT")),
    "Sampler": NodeTraits(("MODEL", "CONDITIONING", "LATENT", "VAE", "IMAGE")),
    "Latent": NodeTraits(("LATENT",)),
    "Encode": NodeTraits(("CONDITIONING",)),
    "Reroute": NodeTraits(("*",)),
    "AllInOne": NodeTraits(("IMAGE",)),
}


def test_a_pipe_is_packed_passed_on_and_unpacked() -> None:
    prompt = {
        "load": node("Loader"),
        "latent": node("Latent"),
        "pack": node("ToPipe", model="load", clip="load.1", vae="load.2"),
        "sample": node("PipeSampler", pipe="pack", latent="latent"),
        "unpack": node("FromPipe", pipe="sample"),
        "text": node("Encode", clip="unpack.2"),
    }
    assert flow(prompt, {"load": CHECKPOINT}, traits=CUSTOM.get) == {"sample": ("model",), "text": ("clip",)}


def test_a_sampler_that_hands_its_model_on_computes_with_it_too() -> None:
    prompt = {
        "load": node("Loader"),
        "latent": node("Latent"),
        "first": node("Sampler", model="load", latent="latent", vae="load.2"),
        "reroute": node("Reroute", anything="first"),
        "second": node("Sampler", model="reroute", latent="first.2"),
    }
    found = flow(prompt, {"load": CHECKPOINT}, traits=CUSTOM.get)
    assert found == {"first": ("model", "vae"), "second": ("model",)}


def test_a_node_that_loads_what_it_has_no_handle_for_computes_with_it() -> None:
    assert flow({"a": node("AllInOne")}, {"a": (("sam", None),)}, traits=CUSTOM.get) == {"a": ("sam",)}


def test_components_pass_through_nodes_that_are_cached_and_through_cycles_without_end() -> None:
    prompt = text_to_image()
    assert computes(prompt, ["sample"], core_traits, {"load": CHECKPOINT}) == {"sample": ("model",)}
    prompt["load"]["inputs"]["back"] = ["save", 0]
    assert computes(prompt, ["sample"], core_traits, {"load": CHECKPOINT}) == {"sample": ("model",)}


def test_ten_thousand_loras_in_a_row() -> None:
    prompt = {"0": node("UNETLoader")} | {str(n): node("LoraLoaderModelOnly", model=str(n - 1)) for n in range(1, 10_000)}
    prompt["sample"] = node("KSampler", model="9999")
    assert flow(prompt, {"0": (("unet", "MODEL"),)}) == {"sample": ("unet",)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CUSTOM)), st.lists(st.integers(0, 11), max_size=3)), min_size=1, max_size=12), st.data())
def test_a_node_computes_only_with_what_is_loaded_at_or_above_it(spec: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    prompt = {
        str(i): node(kind, **{f"in{j}": f"{source % i}.{data.draw(st.integers(0, 3))}" for j, source in enumerate(sources) if i})
        for i, (kind, sources) in enumerate(spec)
    }
    loads = {node_id: ((f"c{node_id}", data.draw(st.sampled_from([None, "MODEL", "CLIP", "VAE"]))),) for node_id in prompt}
    found = flow(prompt, loads, traits=CUSTOM.get)
    above: dict[str, set[str]] = {}
    for node_id, each in prompt.items():
        above[node_id] = {node_id}.union(*(above[value[0]] for value in each["inputs"].values()))
        keys = found.get(node_id, ())
        assert set(keys) <= {f"c{source}" for source in above[node_id]}
        assert len(keys) == len(set(keys))


def test_what_arrives_at_an_input_is_told_by_name_and_an_input_aside_leads_nowhere():
    table = {
        "Load": NodeTraits(("MODEL", "CLIP")),
        "Encode": NodeTraits(("CONDITIONING",)),
        "Release": NodeTraits(("*",), aside=frozenset({"component"})),
        "Sample": NodeTraits(("LATENT",)),
    }
    prompt = {
        "1": {"class_type": "Load", "inputs": {}},
        "2": {"class_type": "Encode", "inputs": {"clip": ["1", 1]}},
        "3": {"class_type": "Release", "inputs": {"value": ["2", 0], "component": ["1", 1]}},
        "4": {"class_type": "Release", "inputs": {"value": ["1", 0]}},
        "5": {"class_type": "Sample", "inputs": {"model": ["4", 0], "positive": ["3", 0]}},
    }
    loads = {"1": (("unet", "MODEL"), ("text", "CLIP"))}
    assert arrives(prompt, ["3", "4"], table.get, loads) == {"3": {"component": ("text",)}, "4": {"value": ("unet",)}}
    assert computes(prompt, list(prompt), table.get, loads) == {"2": ("text",), "5": ("unet",)}


def test_a_node_that_makes_only_conditioning_encodes():
    assert NodeTraits(outputs=("CONDITIONING", "CONDITIONING")).encodes
    assert not any(NodeTraits(outputs=outputs).encodes for outputs in ((), ("LATENT",), ("CONDITIONING", "LATENT")))


def test_a_node_that_asks_a_model_for_numbers_computes_with_nothing() -> None:
    prompt = {
        "load": node("CheckpointLoaderSimple"),
        "up": node("LatentUpscaleModelLoader"),
        "sound": node("LTXVEmptyLatentAudio", audio_vae="load.2"),
        "frames": node("PrimitiveInt"),
        "sized": node("SomeEmptyLatent", vae="load.2", length="frames"),
        "like": node("EmptyLatentLike", model="load"),
        "noised": node("AddNoise", model="load", latent_image="sized"),
        "bigger": node("LTXVLatentUpsampler", samples="noised", upscale_model="up", vae="load.2"),
        "decoded": node("VAEDecode", samples="bigger", vae="load.2"),
    }
    others = {"SomeEmptyLatent": NodeTraits(("LATENT", "INT")), "EmptyLatentLike": NodeTraits(("LATENT",))}
    loads = {"load": CHECKPOINT, "up": (("up", "LATENT_UPSCALE_MODEL"),)}
    found = flow(prompt, loads, traits=lambda name: others.get(name) or core_traits(name))
    assert found == {"bigger": ("up",), "decoded": ("vae",)}


def test_a_vae_that_gets_something_to_code_is_computed_with_even_where_a_latent_is_all_that_is_made() -> None:
    prompt = {
        "vae": node("VAELoader"),
        "empty": node("EmptyLatentImage"),
        "image": node("LoadImage"),
        "scaled": node("ScaleLatentInPixels", samples="empty", vae="vae"),
        "encoded": node("VAEEncode", pixels="image", vae="vae"),
    }
    table = {"ScaleLatentInPixels": NodeTraits(("LATENT",))}
    found = flow(prompt, {"vae": (("vae", "VAE"),)}, traits=lambda name: table.get(name) or core_traits(name))
    assert found == {"scaled": ("vae",), "encoded": ("vae",)}


def test_image_to_video_without_an_image_has_no_use_for_its_vae() -> None:
    prompt = text_to_image()
    prompt["video"] = node("WanImageToVideo", positive="yes", negative="no", vae="load.2")
    prompt["sample"]["inputs"] |= {"positive": ["video", 0], "latent_image": ["video", 2]}
    loads = {"load": CHECKPOINT}
    assert flow(prompt, loads) == {"yes": ("clip",), "no": ("clip",), "sample": ("model",), "decode": ("vae",)}
    prompt["video"]["inputs"]["start_image"] = ["picture", 0]
    assert flow(prompt | {"picture": node("LoadImage")}, loads)["video"] == ("vae",)
    prompt["h3"] = node("MiniMaxH3ImageToVideo", clip="load.1", vae="load.2")
    assert flow(prompt, loads)["h3"] == ("clip",)
    prompt["h3"]["inputs"]["first_frame"] = ["picture", 0]
    assert flow(prompt | {"picture": node("LoadImage")}, loads)["h3"] == ("clip", "vae")


def test_a_long_chain_of_loras_is_followed_in_proportion_to_its_length_and_the_model_is_not_lost() -> None:
    """Each link carries what is before it, up to a bound: the first of it, the model itself among them."""

    def chain(count: int) -> tuple[tuple[str, ...], int]:
        prompt, last = text_to_image(), "load"
        for i in range(count):
            prompt[f"lora{i}"] = node("LoraLoaderModelOnly", model=last)
            last = f"lora{i}"
        prompt["sample"]["inputs"]["model"] = [last, 0]
        loads = {"load": CHECKPOINT} | {f"lora{i}": ((f"file {i}", None),) for i in range(count)}
        allowance = Allowance()
        return flow(prompt, loads, allowance=allowance)["sample"], allowance.spent

    used, _ = chain(50)
    assert used == ("model", *(f"file {i}" for i in range(50)))
    used, twice = chain(2000)
    assert used[:2] == ("model", "file 0") and len(used) == MOST_CARRIED + 1  # what the last node loads itself
    assert twice <= 2.2 * chain(1000)[1]


@settings(deadline=None)
@given(st.data())
def test_nodes_that_come_later_change_nothing_of_those_before(data: st.DataObject) -> None:
    """A flow that grows with its prompt says what one of the whole prompt says, and looks at each node once."""
    prompt = text_to_image() | {f"again {node_id}": each for node_id, each in text_to_image().items()}
    for node_id in [one for one in prompt if one.startswith("again")]:
        for value in prompt[node_id]["inputs"].values():
            value[0] = data.draw(st.sampled_from([value[0], f"again {value[0]}"]))
    loads = {"load": CHECKPOINT, "again load": (("b", "MODEL"), ("c", "CLIP"), ("v", "VAE"))}
    growing: Prompt = {}
    allowance, whole = Allowance(), Allowance()
    live = Flow(growing, core_traits, loads, allowance=allowance)
    found = {}
    for node_id, each in prompt.items():
        growing[node_id] = each
        found[node_id] = live.computed_by(node_id)
    assert {node_id: keys for node_id, keys in found.items() if keys} == flow(prompt, loads, allowance=whole)
    assert allowance.spent <= whole.spent + len(prompt)
