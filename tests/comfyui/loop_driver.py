"""Runs inside ComfyUI's own Python: a loop as later versions have them, at the executor of this one, with the pack's host around it.

What starts a loop expands a copy of its body for each round, takes the body itself out of what is left to run, puts another node in the
place of the one that ends the loop, and holds that until the last round has given its results. Without its guard each story must show
the damage that the guard is for.

<ComfyUI>/.venv/bin/python tests/comfyui/loop_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from inside import enter

ROUNDS = 3
BODY, END = ("4", "5", "6"), "7"
LISTS: list[Any] = []  # the executor's list of nodes, of each prompt


def later_loops() -> None:
    """Methods that a loop asks of the list and the prompt, and this ComfyUI's have not."""
    from comfy_execution.graph import DynamicPrompt, ExecutionList

    get_node, begins = DynamicPrompt.get_node, ExecutionList.__init__

    def override_node(self: Any, node_id: str, node: Any) -> None:
        self.__dict__.setdefault("node_overrides", {})[node_id] = node

    def overridden(self: Any, node_id: str) -> Any:
        return self.__dict__.get("node_overrides", {}).get(node_id) or get_node(self, node_id)

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        begins(self, *args, **kwargs)
        self.held, self.results = {}, {}
        LISTS.append(self)

    def inhibit_nodes(self: Any, node_ids: Any) -> None:
        for node_id in [one for one in node_ids if one in self.pendingNodes]:
            self.pop_node(node_id)
            for blocked in self.blocking.values():
                blocked.pop(node_id, None)

    DynamicPrompt.override_node, DynamicPrompt.get_node = override_node, overridden
    ExecutionList.__init__, ExecutionList.inhibit_nodes = begin, inhibit_nodes


class Base:
    CATEGORY, FUNCTION = "loops", "run"

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> float:  # noqa: N802
        return float("nan")


class Loader(Base):
    RETURN_TYPES = ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"vae_name": (["loop_a.safetensors", "loop_b.safetensors"],)}}

    def run(self, vae_name: str) -> Any:
        return (vae_name,)


class Decode(Base):
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"vae": ("VAE",), "samples": ("LATENT",)}, "optional": {"after": ("*",)}}

    def run(self, vae: str, samples: Any, after: Any = None) -> Any:
        return (f"{vae} after {after}",)


class Choose(Base):
    """Of the two the first."""

    RETURN_TYPES = ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"vae": ("VAE",), "after": ("*",)}}

    def run(self, vae: str, after: Any) -> Any:
        return (vae,)


class StartOfLoop(Base):
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"rounds": ("INT", {"default": ROUNDS})}, "hidden": {"dynprompt": "DYNPROMPT", "own": "UNIQUE_ID"}}

    def run(self, rounds: int, dynprompt: Any, own: str) -> Any:
        from comfy_execution.graph_utils import GraphBuilder, is_link

        graph, waiting, end = GraphBuilder(), LISTS[-1], dynprompt.get_node(END)
        last, copies = None, {}
        for number in range(rounds):
            one_round = graph.node("Round", f"round_{number}", number=number, **({"after": last} if last else {}))
            copies = {node_id: graph.node(dynprompt.get_node(node_id)["class_type"], f"{number}_{node_id}") for node_id in BODY}
            for node_id, copy in copies.items():
                for name, value in dynprompt.get_node(node_id)["inputs"].items():
                    source = value[0] if is_link(value) else None
                    inside = one_round if source == own else copies.get(source)
                    copy.set_input(name, value if inside is None else inside.out(value[1]))
            last = copies[BODY[-1]].out(0)
        graph.node("EndOfRounds", "end", end_id=END, value=last)
        waiting.add_node(END)
        waiting.held[END] = waiting.add_external_block(END)
        waiting.inhibit_nodes(BODY)
        dynprompt.override_node(END, {**end, "inputs": {name: value for name, value in end["inputs"].items() if name != "value"}})
        return {"result": (None,), "expand": graph.finalize()}


class Round(Base):
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"number": ("INT", {})}, "optional": {"after": ("*",)}}

    def run(self, number: int, after: Any = None) -> Any:
        return (f"round {number}",)


class EndOfRounds(Base):
    RETURN_TYPES, OUTPUT_NODE = (), True

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"end_id": ("STRING", {}), "value": ("*",)}}

    def run(self, end_id: str, value: Any) -> Any:
        LISTS[-1].results[end_id] = value
        LISTS[-1].held[end_id]()
        return ()


class EndOfLoop(Base):
    RETURN_TYPES = ("*",)

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"accumulate": ("BOOLEAN", {})}, "optional": {"value": ("*",)}, "hidden": {"own": "UNIQUE_ID"}}

    def run(self, accumulate: bool, own: str, value: Any = None) -> Any:
        return (LISTS[-1].results[own],)


class Show(Base):
    RETURN_TYPES, OUTPUT_NODE = (), True

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images: str) -> Any:
        return {"ui": {"text": [images]}}


CLASSES = (Loader, Decode, Choose, StartOfLoop, Round, EndOfRounds, EndOfLoop, Show)


def prompt() -> dict[str, Any]:
    """Each round decodes with a and with b; b leaves the loop, and is decoded with once more."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    return {
        "1": node("Loader", vae_name="loop_a.safetensors"),
        "2": node("Loader", vae_name="loop_b.safetensors"),
        "3": node("StartOfLoop", rounds=ROUNDS),
        "4": node("Decode", vae=["1", 0], samples=["3", 0]),
        "5": node("Decode", vae=["2", 0], samples=["3", 0], after=["4", 0]),
        "6": node("Choose", vae=["2", 0], after=["5", 0]),
        "7": node("EndOfLoop", accumulate=False, value=["6", 0]),
        "8": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "9": node("Decode", vae=["7", 0], samples=["8", 0]),
        "10": node("Show", images=["9", 0]),
    }


class Stage:
    """The real executor, and which nodes it has run."""

    def __init__(self) -> None:
        import execution
        import server
        from comfy_execution.graph import ExecutionList

        self.ran: list[str] = []
        arguments = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        self.executor = execution.PromptExecutor(server.PromptServer.instance, cache_type=execution.CacheType.CLASSIC, cache_args=arguments)
        complete = ExecutionList.complete_node_execution

        def completing(execution_list: Any) -> None:
            self.ran.append(execution_list.staged_node_id)
            complete(execution_list)

        ExecutionList.complete_node_execution = completing

    def run(self, host: Any = None) -> dict[str, Any]:
        self.ran.clear()
        self.executor.reset()
        plans: list[Any] = []
        if host is not None:
            from residency.session import OrderChanges, PromptBegins

            host.runtime.recorder = lambda fact, told: plans.append(fact) if isinstance(fact, OrderChanges | PromptBegins) else None
            host.install()
        try:
            self.executor.execute(prompt(), f"prompt {len(LISTS)}", {}, ["10"])
        finally:
            if host is not None:
                host.uninstall()
        errors = [data["exception_message"] for event, data in self.executor.status_messages if event == "execution_error"]
        shown = self.executor.history_result["outputs"].get("10", {}).get("text")
        return {"ran": list(self.ran), "shown": shown, "errors": errors, "plans": plans}


def loop(stage: Stage) -> dict[str, Any]:
    """The host's forecast once the rounds were there, and the prompt's outcome."""
    from residency.comfyui.host import ComfyHost
    from residency.core.timeline import UseKind

    stock, host = stage.run(), ComfyHost()
    ours = stage.run(host)
    uses: Counter[str] = Counter()
    foretold, last = [], []
    for fact in ours["plans"]:
        ends = fact.timeline.expected_from  # behind it stands the prompt once more, as it may be queued again
        own = [visit.node_id for visit in fact.timeline.visits[:ends] if visit.asks is None]
        if not foretold and any("round_0" in node_id for node_id in own):
            foretold = own
            computing = [use for use in fact.timeline.uses if use.kind is UseKind.COMPUTE and use.position < (ends or len(own))]
            uses.update(fact.components[use.component].name for use in computing)
            last = [fact.components[use.component].name for use in computing if fact.timeline.visits[use.position].node_id == "9"]
    return {
        "same": [ours[key] == stock[key] for key in ("ran", "shown", "errors")],
        "shown": ours["shown"],
        "body": [node_id for node_id in foretold if node_id in BODY],
        "foretold": sum(node_id in ours["ran"] for node_id in foretold) == len(foretold) > 0,
        "uses": dict(uses),
        "behind": last,
        "failures": host.guard.failures,
        "outcome": [trace.head()["outcome"] for trace in host.runtime.traces],
    }


# Without which rule → (the behaviour, what shows: to be filled in with the answer)
SHOWS = {
    "keeps to the plan": (
        "A loop's rounds are expanded and its body is inhibited: the plan follows.",
        "{failures} failures of the pack; the prompt's trace ends with {outcome[0]}",
    ),
    "its end forgets": (
        "The node that ends a loop is overridden and held: what it hands on is what the last round made.",
        "components known to be used behind the loop: {behind}",
    ),
}


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """As later_driver tells its stories."""
    found = {}
    for rule, (of, shows) in SHOWS.items():
        found[rule] = {"of": of, "shown": [shows.format_map(answer[name]) for name in ("guarded", rule)]}
    return found


@contextlib.contextmanager
def without(owner: Any, name: str, value: Any) -> Any:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def main() -> None:
    scratch = Path(sys.argv[2])
    enter(Path(sys.argv[1]), scratch)
    import logging

    import folder_paths
    import server

    import nodes

    server.PromptServer(asyncio.new_event_loop())
    folder_paths.set_output_directory(str(scratch))
    (scratch / "vae").mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("vae", str(scratch / "vae"))
    for name in "ab":
        header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
        (scratch / "vae" / f"loop_{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    nodes.NODE_CLASS_MAPPINGS.update({kind.__name__: kind for kind in CLASSES})
    later_loops()
    stage = Stage()
    from residency.comfyui.prompt.live_graph import LiveGraph
    from residency.comfyui.prompt.look_ahead import LookAhead

    answer = {"guarded": loop(stage)}
    logging.disable(logging.CRITICAL)  # the rest fails
    with without(LiveGraph, "_kept_links", lambda self, node_id, node: node):
        answer["its end forgets"] = loop(stage)
    plan = LookAhead.plan

    def only_once(self: Any, prompt: Any, execution_list: Any) -> None:
        if not prompt.timeline.visits:
            plan(self, prompt, execution_list)

    with without(LookAhead, "plan", only_once):
        answer["keeps to the plan"] = loop(stage)
    print("ANSWER " + json.dumps({**answer, "stories": told(answer)}))


if __name__ == "__main__":
    main()
