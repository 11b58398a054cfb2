"""Residency Report: the prompt up to this node, as an image of the timeline, a text and the trace as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy
import torch
from comfy_api.latest import io, ui

from ..residency.comfyui import lifecycle
from ..residency.record import text
from ..residency.record.png import picture


class ResidencyReport(io.ComfyNode):
    """Put it behind the last image: it runs when its input is there, and passes it on unchanged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        anything = io.Custom("*")
        return io.Schema(
            node_id="ResidencyReport",
            display_name="Residency Report",
            category="residency",
            description="Shows where the time of this prompt went: compute, waiting for weights, what was read ahead, and why. "
            "Connect the last result of the workflow, so that it runs at the end.",
            search_aliases=["timeline", "trace", "profile", "memory report"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[anything.Input("after", optional=True, tooltip="Anything; the report covers what ran before it.")],
            outputs=[
                io.Image.Output(display_name="timeline"),
                io.String.Output(display_name="text"),
                io.String.Output(display_name="json"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        return float("nan")  # each run has its own story

    @classmethod
    def execute(cls, after: Any = None) -> io.NodeOutput:
        trace = lifecycle.current_trace()
        if trace is None:
            nothing = "Residency is off for this prompt: nothing was recorded. Choose another mode to get a report."
            return io.NodeOutput(torch.zeros(1, 64, 64, 3), nothing, "{}", ui=ui.PreviewText(nothing))
        pixels = numpy.asarray(picture([("", trace)]), dtype=numpy.float32) / 255.0
        told = text.text(trace)
        return io.NodeOutput(torch.from_numpy(pixels)[None], told, json.dumps(trace), ui=ui.PreviewText(told))
