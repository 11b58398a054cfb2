"""A trace told in words: for the report node, the command line and the log."""

from __future__ import annotations

from typing import Any

from ..units import size


def line(trace: dict[str, Any]) -> str:
    """One line: seconds, bytes, mode and why."""
    summary = trace["summary"]
    own_s = summary.get("own_s")  # traces of older versions have none
    return (
        f"Residency: {trace['duration_s']:.2f} s = {summary['compute_s']:.2f} s compute + {summary['stall_s']:.2f} s stall; "
        + ("" if own_s is None else f"the pack took {own_s:.2f} s; ")
        + f"read ahead {size(summary['prefetched_bytes'])}, unused {size(summary['wasted_bytes'])}, "
        f"evicted {size(summary['evicted_bytes'])}; mode {trace['mode']} ({trace['mode_reason']})"
    )


def prediction(trace: dict[str, Any]) -> str | None:
    """One line: what earlier runs said of the compute, and how far off that was; None when they said nothing."""
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
    lines = [line(trace), *([told] if (told := prediction(trace)) else [])]
    if trace.get("outcome_reason"):  # traces of older versions have none
        lines.append(trace["outcome_reason"])
    known = [component for component in trace["components"] if "policy" in component]  # traces of older versions have none
    if known:
        lines += ["", "Placed:"]
        lines += [f"  {component['name']}: {placed(component['policy'], trace['mode'])}" for component in known]
    waited = sorted((node for node in trace["nodes"] if node["stall_s"] >= 0.01), key=lambda node: -node["stall_s"])
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
    """One component's policy in words: what was asked for it, else the mode of the prompt, and who said so."""
    asked = policy["mode"] if policy["mode"] not in (None, "auto") else mode
    words = [f"strategy {policy['strategy']}" if policy["strategy"] else asked]
    words += [f"priority {policy['priority']}"] if policy["priority"] else []
    words += [] if policy["prefetch"] else ["not read ahead"]
    words += ["kept in RAM"] if policy["keep"] else []
    return ", ".join(words) + (f" ({policy['source']})" if policy["source"] else "")
