"""The course of a ComfyUI graph, predicted from its text: the order of its nodes, and which node computes with which component."""

from .allowance import NODE_OPERATIONS, OPERATIONS, Allowance, AllowanceError
from .flow import Flow, Loads, arrives, computes, is_handle, wraps_models
from .grouping import Grouping
from .lazy import all_lazy, likely
from .order import Turn, Wanted, predict_order, predict_pending, predict_turns
from .repeats import unchanged
from .traits import Node, NodeOf, NodeTraits, TraitsOf, is_link, links

__all__ = [
    "NODE_OPERATIONS",
    "OPERATIONS",
    "Allowance",
    "AllowanceError",
    "Flow",
    "Grouping",
    "Loads",
    "Node",
    "NodeOf",
    "NodeTraits",
    "TraitsOf",
    "Turn",
    "Wanted",
    "all_lazy",
    "arrives",
    "computes",
    "is_handle",
    "is_link",
    "likely",
    "links",
    "predict_order",
    "predict_pending",
    "predict_turns",
    "unchanged",
    "wraps_models",
]
