"""API prompts for the models of `families`: the loaders and the order of the templates that people run; for small ones small images, few
steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .language import NAME as LANGUAGE_MODEL

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture that is drawn: a square's side in pixels, frames where it moves, steps; `words` that a language model writes."""

    side: int
    steps: int
    frames: int = 1
    words: int = 4


SMALL_PICTURE = Picture(64, 2, 5)
# Of published sizes: the templates' sides and steps, fewer frames.
PICTURES = {
    "wan2.2": Picture(640, 4, 33),
    "minimax_h3": Picture(640, 6, 39),
    "z_image": Picture(1024, 8),
    "qwen_image": Picture(1024, 20, words=24),
    "krea2": Picture(1024, 8),
    "ltx2.3": Picture(512, 8, 97),
    "language": Picture(1024, 8, words=24),
}
LTX_SIGMAS = "1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0"


class _Draft:
    """A prompt under construction: `node` adds one and gives a link to its first output."""

    def __init__(self) -> None:
        self.prompt: Prompt = {}

    def node(self, class_type: str, **inputs: Any) -> list[Any]:
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": inputs}
        return [node_id, 0]

    def unet(self, name: str) -> list[Any]:
        return self.node("UNETLoader", unet_name=name, weight_dtype="default")

    def clip(self, name: str, kind: str) -> list[Any]:
        return self.node("CLIPLoader", clip_name=name, type=kind, device="default")

    def sample(self, model: list[Any], positive: list[Any], negative: list[Any], latent: list[Any], seed: int, steps: int) -> list[Any]:
        how = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        return self.node("KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **how)

    def decode(self, latent: list[Any], vae: list[Any]) -> list[Any]:
        return self.node("VAEDecode", samples=latent, vae=vae)

    def save(self, images: list[Any]) -> Prompt:
        self.node("SaveImage", images=images, filename_prefix="family")
        return self.prompt

    def z_image(self, text: Any, seed: int, picture: Picture) -> Prompt:
        clip = self.clip("qwen3_4b.safetensors", "lumina2")
        positive = self.node("CLIPTextEncode", clip=clip, text=text)
        negative = self.node("ConditioningZeroOut", conditioning=positive)
        latent = self.node("EmptySD3LatentImage", width=picture.side, height=picture.side, batch_size=1)
        model = self.node("ModelSamplingAuraFlow", model=self.unet("z_image.safetensors"), shift=3.0)
        sampled = self.sample(model, positive, negative, latent, seed, picture.steps)
        return self.save(self.decode(sampled, self.node("VAELoader", vae_name="z_image_vae.safetensors")))


def _second(link: list[Any], slot: int = 1) -> list[Any]:
    return [link[0], slot]


def wan(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """Wan 2.2, text to video: the expert for noisy steps, then the other."""
    draft = _Draft()
    clip = draft.clip("umt5.safetensors", "wan")
    positive = draft.node("CLIPTextEncode", clip=clip, text=f"a lighthouse, take {seed}")
    negative = draft.node("ConditioningZeroOut", conditioning=positive)
    latent = draft.node("EmptyHunyuanLatentVideo", width=picture.side, height=picture.side, length=picture.frames, batch_size=1)
    half = picture.steps // 2
    for name, first, last in (("wan_high", 0, half), ("wan_low", half, 10000)):
        model = draft.unet(f"{name}.safetensors")
        model = draft.node("LoraLoaderModelOnly", model=model, lora_name=f"{name}_lora.safetensors", strength_model=1.0)
        model = draft.node("ModelSamplingSD3", model=model, shift=5.0)
        more = {"add_noise": "disable" if first else "enable", "return_with_leftover_noise": "disable" if first else "enable"}
        how = {"noise_seed": seed, "steps": picture.steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
        latent = draft.node("KSamplerAdvanced", start_at_step=first, end_at_step=last, **links, **how, **more)
    return draft.save(draft.decode(latent, draft.node("VAELoader", vae_name="wan_vae.safetensors")))


def minimax_h3(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """MiniMax H3, text to video with sound, of which the pictures are decoded."""
    draft = _Draft()
    clip, vae = draft.clip("h3_qwen3vl.safetensors", "minimax"), draft.node("VAELoader", vae_name="h3_vae.safetensors")
    size = {"width": picture.side, "height": picture.side, "length": picture.frames}
    positive = draft.node("MiniMaxH3ImageToVideo", clip=clip, vae=vae, prompt=f"a lighthouse, take {seed}", **size)
    model = draft.node("LoraLoaderModelOnly", model=draft.unet("h3.safetensors"), lora_name="h3_lora.safetensors", strength_model=1.0)
    links = {
        "noise": draft.node("RandomNoise", noise_seed=seed),
        "guider": draft.node("BasicGuider", model=model, conditioning=positive),
        "sampler": draft.node("KSamplerSelect", sampler_name="res_multistep"),
        "sigmas": draft.node("BasicScheduler", model=model, scheduler="simple", steps=picture.steps, denoise=1.0),
    }
    return draft.save(draft.decode(draft.node("SamplerCustomAdvanced", latent_image=_second(positive), **links), vae))


def z_image(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """Z-Image Turbo, text to image."""
    draft = _Draft()
    return draft.z_image(f"a lighthouse, take {seed}", seed, picture)


def language(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """Z-Image Turbo, text to image, of a prompt that a language model of the transformers library writes with the pack's own nodes."""
    draft = _Draft()
    lm = draft.node("ResidencyTransformersLoader", lm_name=LANGUAGE_MODEL, device="default")
    asked = {"text": f"a lighthouse, take {seed}", "system_prompt": "", "max_new_tokens": picture.words, "temperature": 1.0, "seed": seed}
    text = draft.node("PreviewAny", source=draft.node("ResidencyWriteText", lm=lm, **asked))
    return draft.z_image(text, seed, picture)


def qwen_image(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """Qwen-Image, text to image, of a prompt that a language model writes."""
    draft = _Draft()
    writer = draft.clip("qwen_writer.safetensors", "stable_diffusion")
    how = {"max_length": picture.words, "sampling_mode": "off", "thinking": False, "use_default_template": True}
    text = draft.node("TextGenerate", clip=writer, prompt=f"a lighthouse, take {seed}", **how)
    clip = draft.clip("qwen25_7b.safetensors", "qwen_image")
    positive = draft.node("CLIPTextEncode", clip=clip, text=text)
    negative = draft.node("CLIPTextEncode", clip=clip, text="")
    latent = draft.node("EmptySD3LatentImage", width=picture.side, height=picture.side, batch_size=1)
    model = draft.node("ModelSamplingAuraFlow", model=draft.unet("qwen_image.safetensors"), shift=3.1)
    sampled = draft.sample(model, positive, negative, latent, seed, picture.steps)
    return draft.save(draft.decode(sampled, draft.node("VAELoader", vae_name="wan_vae.safetensors")))


def krea2(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """Krea 2 Turbo, text to image."""
    draft = _Draft()
    positive = draft.node("CLIPTextEncode", clip=draft.clip("qwen3vl_4b.safetensors", "krea2"), text=f"a lighthouse, take {seed}")
    negative = draft.node("ConditioningZeroOut", conditioning=positive)
    latent = draft.node("EmptyLatentImage", width=picture.side, height=picture.side, batch_size=1)
    sampled = draft.sample(draft.unet("krea2.safetensors"), positive, negative, latent, seed, picture.steps)
    return draft.save(draft.decode(sampled, draft.node("VAELoader", vae_name="wan_vae.safetensors")))


def ltx(seed: int, picture: Picture = SMALL_PICTURE) -> Prompt:
    """LTX-2.3, image to video with sound: three loaders name the one checkpoint."""
    draft = _Draft()
    file, frames = "ltx.safetensors", max(9, picture.frames)
    checkpoint = draft.node("CheckpointLoaderSimple", ckpt_name=file)
    audio_vae = draft.node("LTXVAudioVAELoader", ckpt_name=file)
    clip = draft.node("LTXAVTextEncoderLoader", text_encoder="gemma3.safetensors", ckpt_name=file, device="default")
    vae = _second(checkpoint, 2)
    positive = draft.node("CLIPTextEncode", clip=clip, text=f"a lighthouse, take {seed}")
    negative = draft.node("ConditioningZeroOut", conditioning=positive)
    text = draft.node("LTXVConditioning", positive=positive, negative=negative, frame_rate=25.0)
    image = draft.node("EmptyImage", width=picture.side, height=picture.side, batch_size=1, color=0x6080A0)
    video = draft.node("EmptyLTXVLatentVideo", width=picture.side, height=picture.side, length=frames, batch_size=1)
    video = draft.node("LTXVImgToVideoInplace", vae=vae, image=image, latent=video, strength=0.7, bypass=False)
    audio = draft.node("LTXVEmptyLatentAudio", audio_vae=audio_vae, frames_number=frames, frame_rate=25.0, batch_size=1)
    links = {
        "noise": draft.node("RandomNoise", noise_seed=seed),
        "guider": draft.node("CFGGuider", model=checkpoint, positive=text, negative=_second(text), cfg=1.0),
        "sampler": draft.node("KSamplerSelect", sampler_name="euler"),
        "sigmas": draft.node("ManualSigmas", sigmas=LTX_SIGMAS if picture.steps > 2 else "1.0, 0.725, 0.0"),
        "latent_image": draft.node("LTXVConcatAVLatent", video_latent=video, audio_latent=audio),
    }
    both = draft.node("LTXVSeparateAVLatent", av_latent=draft.node("SamplerCustomAdvanced", **links))
    sound = draft.node("LTXVAudioVAEDecode", samples=_second(both), audio_vae=audio_vae)
    # one output, as in the template: of several ComfyUI takes them in the order of a set of strings, which is another in each process
    film = draft.node("CreateVideo", images=draft.decode(both, vae), audio=sound, fps=25.0)
    return draft.save(draft.node("GetVideoComponents", video=film))


class MakesPrompt(Protocol):
    """A prompt of this seed, which is in its text as well."""

    def __call__(self, seed: int, picture: Picture = SMALL_PICTURE) -> Prompt: ...


PROMPTS: dict[str, MakesPrompt] = {
    "wan2.2": wan,
    "minimax_h3": minimax_h3,
    "z_image": z_image,
    "qwen_image": qwen_image,
    "krea2": krea2,
    "ltx2.3": ltx,
    "language": language,
}
