"""A trace told in words: for the report node, the command line and the log."""

from __future__ import annotations

from statistics import median
from typing import Any

from ..units import size

NOTICED_S = 0.01  # a shorter stall is only the measuring
PATCHES = "LORA"  # the kind of components that change another one's weights
WORTH_TELLING_S = 0.05  # of a first step that took longer


def line(trace: dict[str, Any]) -> str:
    """One line: seconds, bytes, mode and why."""
    summary = trace["summary"]
    shares = f"{summary['compute_s']:.2f} s compute + {summary['stall_s']:.2f} s stall{_other(summary)}"
    return (
        f"Residency: {trace['duration_s']:.2f} s = {shares}; "
        f"read ahead {size(summary['prefetched_bytes'])}, unused {size(summary['wasted_bytes'])}, "
        f"evicted {size(summary['evicted_bytes'])}; mode {trace['mode']} ({trace['mode_reason']})"
    )


def _other(summary: dict[str, Any]) -> str:
    """Traces of older versions do not tell all of it."""
    parts = [f"the pack {summary['own_s']:.2f} s"] if "own_s" in summary else []
    if summary.get("unsplit_s"):
        parts.append(f"loaders {summary['unsplit_s']:.2f} s, of which this system does not tell the waiting")
    told = f" ({', '.join(parts)})" if parts else ""
    return f" + {summary['other_s']:.2f} s other{told}" if "other_s" in summary else f"{told}"


def waiting(trace: dict[str, Any]) -> str:
    """One sentence: how long nodes have waited for weights, and which of them longest, for which weights, in how many of its steps."""
    nodes = [node for node in trace["nodes"] if node["stall_s"] >= NOTICED_S]
    unsplit = "a loader's waiting is not told on this system" if trace["summary"].get("unsplit_s") else ""
    unknown = "; ".join(filter(None, [trace.get("stall_reason", ""), unsplit]))  # traces of older versions have neither
    known = f", as far as it is measured ({unknown})." if unknown else "."
    if not nodes:
        return f"No node has waited for weights{known}"
    names = {component["key"]: component["name"] for component in trace["components"]}
    most = max(nodes, key=lambda node: float(node["stall_s"]))
    used = list(dict.fromkeys(names.get(key, key) for key in [*most["computes"], *most["loads"]]))
    steps = most.get("steps", [])  # traces of older versions have none
    waited = sum(together for _, stall_s, together in steps if stall_s >= NOTICED_S)
    where = f", in {waited} of {sum(together for *_, together in steps)} steps" if waited else ""
    longest = f"{most['class_type']} {most['node_id']}" + (f" ({', '.join(used)})" if used else "") + where
    if len(nodes) == 1:
        return f"Waited {most['stall_s']:.2f} s for weights: {longest}{known}"
    return f"Waited {sum(node['stall_s'] for node in nodes):.2f} s for weights, of it {most['stall_s']:.2f} s in {longest}{known}"


def patching(trace: dict[str, Any]) -> str | None:
    """One sentence: by how much the first steps of nodes with LoRAs computed longer than the others. Patching weights is in that, and a
    sampler's setting up, so it is the most that patching took. None where no node tells: without LoRAs, or of too few steps."""
    patching_names = {component["key"]: component["name"] for component in trace["components"] if component.get("kind") == PATCHES}
    told: list[str] = []
    for node in trace["nodes"]:
        patches = [patching_names[key] for key in node["computes"] if key in patching_names]
        paces_s = [(took_s - stall_s) / together for took_s, stall_s, together in node.get("steps", ())]
        if patches and len(paces_s) >= 3:
            longer_s = node["steps"][0][2] * (paces_s[0] - median(paces_s[1:]))
            if longer_s >= WORTH_TELLING_S:
                told.append(f"{longer_s:.2f} s in {node['class_type']} {node['node_id']} ({', '.join(patches)})")
    if not told:
        return None
    return f"Patching weights took at most {', '.join(told)}: by so much longer its first step computed than each of the others."


def prediction(trace: dict[str, Any]) -> str | None:
    """One line: the compute that earlier runs foretold, and how far off that was; None when they foretold nothing."""
    summary = trace["summary"]
    predicted_s = summary.get("predicted_compute_s")
    if predicted_s is None:
        return None
    nodes = "1 node" if summary["predicted_nodes"] == 1 else f"{summary['predicted_nodes']} nodes"
    said = f"Predicted: {predicted_s:.2f} ± {summary['predicted_margin_s']:.2f} s of compute, from earlier runs of {nodes}"
    if trace["outcome"] != "success" or not predicted_s:
        return said
    return f"{said}; it took {summary['compute_s']:.2f} s ({summary['compute_s'] / predicted_s - 1:+.0%})"


def text(trace: dict[str, Any]) -> str:
    """The line, how each component was placed and who asked for it, the nodes that waited longest, every decision with its reason."""
    names = {component["key"]: component["name"] for component in trace["components"]}
    lines = [line(trace), waiting(trace), *filter(None, (patching(trace), prediction(trace)))]
    if trace.get("outcome_reason"):  # traces of older versions have none
        lines.append(trace["outcome_reason"])
    known = [component for component in trace["components"] if "policy" in component]  # traces of older versions have none
    if known:
        lines += ["", "Placed:"]
        lines += [f"  {component['name']}: {placed(component['policy'], trace['mode'])}" for component in known]
    waited = sorted((node for node in trace["nodes"] if node["stall_s"] >= NOTICED_S), key=lambda node: -node["stall_s"])
    if waited:
        lines += ["", "Waited for weights:"]
        lines += [f"  {node['stall_s']:8.2f} s  {node['class_type']} {node['node_id']}" for node in waited[:10]]
    lived = [f"  {component['name']}: {component['story']}" for component in trace["components"] if component.get("story")]
    if lived:
        lines += ["", "What became of each:", *lived]
    if trace["decisions"]:
        lines += ["", "Decisions:"]
        lines += [
            f"  {decision['time_s']:8.2f} s  {decision['kind']:<8} {size(decision['size_bytes']):>10}  "
            f"{names.get(decision['component'], decision['component'])}: {decision['reason']}"
            for decision in trace["decisions"][-50:]
        ]
    return "\n".join(lines)


def placed(policy: dict[str, Any], mode: str) -> str:
    """One component's policy in words: the strategy or mode asked for it, else the mode of the prompt, and who said so."""
    asked = policy["mode"] if policy["mode"] not in (None, "auto") else mode
    words = [f"strategy {policy['strategy']}" if policy["strategy"] else asked]
    words += [f"priority {policy['priority']}"] if policy["priority"] else []
    words += [] if policy["prefetch"] else ["not read ahead"]
    words += ["kept in RAM"] if policy["keep"] else []
    return ", ".join(words) + (f" ({policy['source']})" if policy["source"] else "")
