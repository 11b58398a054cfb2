"""What a ComfyUI graph will do, predicted from its text: the order of its nodes, and which node computes with which component."""

from .choice import Grouping
from .flow import Loads, arrives, computes, is_handle, wraps_models
from .lazy import all_lazy, likely
from .order import Wanted, predict_order, predict_pending
from .traits import Node, NodeOf, NodeTraits, TraitsOf, is_link, links

__all__ = [
    "Grouping",
    "Loads",
    "Node",
    "NodeOf",
    "NodeTraits",
    "TraitsOf",
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
    "wraps_models",
]
