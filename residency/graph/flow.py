"""The components that each node computes with.

Weights travel over links inside handles (MODEL, CLIP, GUIDER, ...); results (LATENT, IMAGE, ...) are computed with them. The rule
looks at link types only, so that it also holds for node packs nobody has seen:

1. A component that arrives over a link flows on into the outputs of the same type (LoRA, ModelSampling...).
2. A wrapped one also flows into outputs of its own type (a pipe that is unpacked).
3. Else it flows into the outputs that can wrap it: GUIDER and unknown custom types wrap anything; MODEL wraps its patches;
   CONDITIONING wraps CONTROL_NET, GLIGEN and HOOKS, which are applied in the sampler, and the VAE that such a ControlNet encodes with.
4. Else into wildcard outputs (switches, reroutes).
5. A node that a component does not leave computes with it if it makes a result, takes CONDITIONING, or makes nothing (saving a model).
   SIGMAS, SAMPLER, NOISE, numbers are settings read off a model without its weights: no result. Nor is a LATENT that is made of
   nothing but a VAE and numbers (of a model, where the class says so): an empty one. A VAE or another encoder that goes into a model
   patch is used while the patch is made. A VAE in a node that makes CONDITIONING, with neither picture nor latent linked to it, has
   nothing to encode (image to video without an image).
6. A node that a component leaves, or that gets it in a pipe, computes with it if it makes of its inputs a result that such a component
makes: LATENT from LATENT with a model, CONDITIONING with a text encoder, IMAGE from LATENT or LATENT from IMAGE with a VAE.
7. Components that CONDITIONING carries are computed with beside a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from .allowance import Allowance
from .order import Wanted
from .traits import UNKNOWN, Node, NodeTraits, TraitsOf, links

Loads = Mapping[str, tuple[tuple[str, str | None], ...]]  # node id -> (component key, output type or None: into all its handles)

WILDCARDS = frozenset({"*", "COMFY_MATCHTYPE_V3", "ANY", ""})
SETTINGS = frozenset(
    {
        "SIGMAS",
        "NOISE",
        "SAMPLER",
        "INT",
        "FLOAT",
        "BOOLEAN",
        "COMBO",
        "HOOK_KEYFRAMES",
        "TIMESTEPS_RANGE",
        "COLOR",
        "COLORS",
        "CURVE",
        "FLOATS",
        "LOAD3D_CAMERA",
        "IC_LORA_PARAMETERS",
    }
)
RESULTS = frozenset(
    {
        "LATENT",
        "IMAGE",
        "MASK",
        "CONDITIONING",
        "STRING",
        "AUDIO",
        "VIDEO",
        "LATENT_OPERATION",
        "SVG",
        "MESH",
        "VOXEL",
        "SPLAT",
        "LORA_MODEL",
        "LOSS_MAP",
        "ARRAY",
        "DICT",
        "TRACKS",
        "LAYERS",
        "BOUNDING_BOX",
        "BOUNDING_BOXES",
        "HISTOGRAM",
        "POSE_KEYPOINT",
        "FACE_LANDMARKS",
        "LOAD3D_MODEL_INFO",
        "SHAPE_SUBDIVIDES",
        "SEGS",
        "BBOX",
        "JSON",
        "LIST",
        "DEPTH",
        "CONDITIONING_LIST",
    }
)
_RESULT_ENDINGS = ("_OUTPUT", "_DATA", "_EMBEDS", "_EMBEDDING", "_GEOMETRY", "_RESULT", "_IMAGE", "_LATENT", "_TASK_ID")
_IN_CONDITIONING = frozenset({"CONTROL_NET", "GLIGEN", "HOOKS"})
# Encoders work in the node that gets them: they are not kept inside these.
_ENCODERS = frozenset({"CLIP", "VAE", "CLIP_VISION", "AUDIO_ENCODER", "STYLE_MODEL", "PHOTOMAKER"})
_CORE_HANDLES = frozenset({"MODEL", "CLIP", "VAE", "GUIDER", "CONTROL_NET", "CLIP_VISION", "HOOKS", "STYLE_MODEL", "GLIGEN", "MODEL_PATCH"})

_SAMPLED = frozenset({"MODEL", "GUIDER"})
_CODER = frozenset({"VAE"})
# A few nodes (WanVaceToVideo) encode a grey picture of their own then: their VAE is read as stock reads it.
_NOTHING_TO_CODE = frozenset({"VAE", "CLIP", "CONDITIONING", "CLIP_VISION_OUTPUT", "STRING"}) | SETTINGS
_SIZES = frozenset({"VAE", "MODEL"})

# Components that one link carries at most: in a chain of LoRAs each link carries all before it, which is quadratic. The first ones are
# those nearest the loader, the big ones. Of 506 official workflows none carries more than 4.
MOST_CARRIED = 128

_Carried = dict[tuple[str, str], None]  # (type that the component was loaded as, key): an ordered set, for one output slot


def computes(
    prompt: Mapping[str, Node],
    order: Iterable[str],
    traits: TraitsOf,
    loads: Loads,
    output_types: Callable[[str], tuple[str, ...] | None] = lambda _node_id: None,
    wanted: Wanted | None = None,
    allowance: Allowance | None = None,
) -> dict[str, tuple[str, ...]]:
    """The component keys with which each node of `order` computes, in the order of its inputs; nodes that compute with none are left out.

    `prompt` holds all nodes, cached and ephemeral ones included: components pass through cached nodes too. `output_types` may know the
    types of one node better than its class does (a UI file). With `wanted`, only the lazy inputs that it names carry anything.
    Linear in the links: components that a link carries beyond MOST_CARRIED are left out. Raises AllowanceError.
    """
    flow = Flow(prompt, traits, loads, output_types, wanted, allowance)
    return {node_id: keys for node_id in order if (keys := flow.computed_by(node_id))}


def arrives(prompt: Mapping[str, Node], node_ids: Iterable[str], traits: TraitsOf, loads: Loads) -> dict[str, dict[str, tuple[str, ...]]]:
    """The component keys that reach each input of the given nodes: node id -> input name -> keys. Inputs that carry none are left out."""
    flow = Flow(prompt, traits, loads)
    found = {node_id: flow.reaching(node_id) for node_id in node_ids}
    return {node_id: inputs for node_id, inputs in found.items() if inputs}


class Flow:
    """The components of one prompt, followed as far as it is asked; `computes` has the arguments.

    `prompt` and `loads` may grow meanwhile: nodes that were asked about stay as they were, and are not looked at again.
    """

    def __init__(
        self,
        prompt: Mapping[str, Node],
        traits: TraitsOf,
        loads: Loads,
        output_types: Callable[[str], tuple[str, ...] | None] = lambda _node_id: None,
        wanted: Wanted | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self._prompt = prompt
        self._traits = traits
        self._loads = loads
        self._types_of = output_types
        self._wanted = wanted
        self._spend = (allowance or Allowance()).spend
        self._carried: dict[str, tuple[_Carried, ...]] = {}  # node id -> the components that each output slot carries
        self._computed: dict[str, tuple[str, ...]] = {}
        self._outputs: dict[str, tuple[str, ...]] = {}

    def computed_by(self, node_id: str) -> tuple[str, ...]:
        """The component keys with which the node computes, in the order of its inputs."""
        self._visit(node_id)
        return self._computed.get(node_id, ())

    def reaching(self, node_id: str) -> dict[str, tuple[str, ...]]:
        """The component keys that reach each input of the node; inputs that carry none are left out."""
        self._visit(node_id)
        found = {}
        for name, source, slot in links(self._prompt[node_id]):
            carried = self._carried.get(source, ())
            if 0 <= slot < len(carried) and carried[slot]:
                found[name] = tuple(dict.fromkeys(key for _, key in carried[slot]))
        return found

    def _visit(self, root: str) -> None:
        """Sources before targets, without recursion. A link back into a cycle carries nothing."""
        if root in self._carried or root not in self._prompt:
            return
        incoming = [*links(self._prompt[root])]
        if all(source in self._carried for _, source, _ in incoming):
            self._settle(root, incoming)
            return
        stack = [(root, False)]
        opened: set[str] = set()
        while stack:
            node_id, ready = stack.pop()
            if ready:
                self._settle(node_id, [*links(self._prompt[node_id])])
            elif node_id not in self._carried and node_id not in opened and node_id in self._prompt:
                opened.add(node_id)
                stack.append((node_id, True))
                stack.extend((source, False) for _, source, _ in links(self._prompt[node_id]))

    def _settle(self, node_id: str, incoming: Sequence[tuple[str, str, int]]) -> None:
        node = self._prompt[node_id]
        class_type = node.get("class_type", "")
        traits = self._traits(class_type) or UNKNOWN
        outputs = self._types_of(node_id) or traits.outputs
        self._outputs[node_id] = outputs
        self._carried[node_id] = ()
        own, carried = self._loads.get(node_id, ()), self._carried
        for _, source, _ in incoming:
            if carried.get(source):
                arrivals = self._arrivals(node_id, node, traits, incoming)
                break
        else:  # most nodes of most prompts have nothing to do with weights
            arrivals = []
            self._spend(1 + len(incoming))
        if not arrivals and not own:
            return
        slots: tuple[_Carried, ...] = tuple({} for _ in outputs)
        self._carried[node_id] = slots
        arriving = {kind for _, source, slot in incoming if (kind := self._link_type(source, slot)) is not None}
        made = {kind for kind in outputs if _is_result(kind)}
        is_empty = made == {"LATENT"} and arriving <= (_SIZES if "empty" in class_type.lower() else _CODER) | SETTINGS
        nothing_to_code = "CONDITIONING" in made and made <= {"CONDITIONING", "LATENT"} and arriving <= _NOTHING_TO_CODE
        works = not outputs or (bool(made) and not is_empty) or "CONDITIONING" in arriving
        computed: dict[str, None] = {}
        beside_model: list[str] = []
        targets_of: dict[tuple[str, str], list[int]] = {}
        for link, kind, key in arrivals:
            targets = targets_of.get((link, kind))
            if targets is None:
                targets = targets_of[link, kind] = _targets(link, kind, outputs, arriving)
            for slot in targets:
                if len(slots[slot]) < MOST_CARRIED:
                    slots[slot][(kind, key)] = None
            if link == "CONDITIONING":
                if not targets:
                    beside_model.append(key)
            elif link == "VAE" and nothing_to_code:
                continue
            elif targets or not (link == kind or link in _CORE_HANDLES):
                if _works_with(kind, arriving, made):
                    computed[key] = None
            elif works or (link in _ENCODERS and any(is_handle(type_) for type_ in outputs)):
                computed[key] = None
        if computed and not arriving.isdisjoint(_SAMPLED):
            computed.update(dict.fromkeys(beside_model))
        for key, kind in own:
            self._load(key, kind, outputs, slots, computed)
        self._computed[node_id] = tuple(computed)

    def _arrivals(
        self, node_id: str, node: Node, traits: NodeTraits, incoming: Sequence[tuple[str, str, int]]
    ) -> list[tuple[str, str, str]]:
        """(link type, component type, key) for everything that reaches the node; a wildcard link has the component's type."""
        followed = None if self._wanted is None or not traits.lazy else set(self._wanted(node_id, node))
        found: dict[tuple[str, str, str], None] = {}
        looked_at = 1 + len(incoming)
        for name, source, slot in incoming:
            if name in traits.aside or (followed is not None and name in traits.lazy and name not in followed):
                continue
            carried = self._carried.get(source, ())
            if 0 <= slot < len(carried):
                link = self._outputs[source][slot]
                looked_at += len(carried[slot])
                for kind, key in carried[slot]:
                    found[(kind if link in WILDCARDS else link, kind, key)] = None
        self._spend(looked_at)
        return list(found)

    def _link_type(self, source: str, slot: int) -> str | None:
        outputs = self._outputs.get(source, ())
        return outputs[slot] if 0 <= slot < len(outputs) else None

    @staticmethod
    def _load(key: str, kind: str | None, outputs: tuple[str, ...], slots: tuple[_Carried, ...], computed: dict[str, None]) -> None:
        """The components that a loader node hands out; a node that loads a component and has no handle for it computes with it."""
        wild = [slot for slot, type_ in enumerate(outputs) if type_ in WILDCARDS]
        handles = [slot for slot, type_ in enumerate(outputs) if is_handle(type_)]
        targets = handles
        if kind is not None:
            same = [slot for slot, type_ in enumerate(outputs) if type_ == kind]
            # a pipe that a loader makes beside its models holds them too
            pipes = [slot for slot in handles if wraps_models(outputs[slot])] if kind in _CORE_HANDLES | _ENCODERS else []
            targets = list(dict.fromkeys(same + pipes)) or handles
        for slot in targets or wild:
            own = kind if kind is not None else outputs[slot]
            slots[slot][(own, key)] = None
        if not targets and not wild:
            computed[key] = None


def _is_result(kind: str) -> bool:
    return kind in RESULTS or kind.startswith("FILE_3D") or kind.endswith(_RESULT_ENDINGS)


def is_handle(kind: str) -> bool:
    """Whether values of this link type carry weights, wrapped or not."""
    return kind not in SETTINGS and kind not in WILDCARDS and not _is_result(kind)


def wraps_models(kind: str) -> bool:
    """Whether values of this link type may hold several models of core's types: a pipe."""
    return is_handle(kind) and kind not in _CORE_HANDLES and kind not in _ENCODERS


def _targets(link: str, kind: str, outputs: tuple[str, ...], arriving: set[str]) -> list[int]:
    """The output slots into which a component flows that arrived over `link` and was loaded as `kind`."""
    same = [slot for slot, type_ in enumerate(outputs) if type_ in (link, kind)]
    if same:
        return same
    if link in _IN_CONDITIONING or (link == "VAE" and "CONTROL_NET" in arriving):
        into = [slot for slot, type_ in enumerate(outputs) if type_ == "CONDITIONING"]
        if into:
            return into
    handles = [slot for slot, type_ in enumerate(outputs) if is_handle(type_)]
    if link in _ENCODERS:
        handles = [slot for slot in handles if outputs[slot] not in _CORE_HANDLES]
    return handles or [slot for slot, type_ in enumerate(outputs) if type_ in WILDCARDS]


def _works_with(kind: str, arriving: set[str], made: set[str]) -> bool:
    """Does a node that also hands a component on compute with it?"""
    if kind == "CLIP":
        return "CONDITIONING" in made
    if kind == "VAE":
        return ("LATENT" in arriving and not made.isdisjoint({"IMAGE", "VIDEO", "AUDIO"})) or ("IMAGE" in arriving and "LATENT" in made)
    return "LATENT" in arriving and not made.isdisjoint({"LATENT", "IMAGE"}) and kind not in _IN_CONDITIONING
