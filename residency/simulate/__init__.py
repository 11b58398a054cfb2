"""A virtual-clock host: the same deciding core, the stock policy and plain caches beside it, no hardware.

    run(program, machine, policy) -> Outcome        policies: STOCK, LRU, MRU, OURS, OURS_DEVICE, OURS_EXCHANGING
    bound_s(program, machine)                       the least that any schedule could take
    optimum(sizes, uses, room)                      the true optimum of a small two-tier instance

A program is prompts of steps; a machine is rates and sizes; nothing here reads a clock or a file, and the same arguments give the same
result.
"""

from .bound import bound_s
from .machine import GB, GIB, H100, H100_LATER, H100_SLOW_DISK, Drive, Machine, ideal, of_rates
from .optimum import optimum
from .policies import LRU, MRU, OURS, OURS_DEVICE, OURS_EXCHANGING, STOCK, Managed, OnDemand
from .run import NodeTime, Outcome, Policy, run
from .tiers import Victim
from .workload import COLD, STEADY, Pressure, Program, Start, Step, sequence

__all__ = [
    "COLD",
    "GB",
    "GIB",
    "H100",
    "H100_LATER",
    "H100_SLOW_DISK",
    "LRU",
    "MRU",
    "OURS",
    "OURS_DEVICE",
    "OURS_EXCHANGING",
    "STEADY",
    "STOCK",
    "Drive",
    "Machine",
    "Managed",
    "NodeTime",
    "OnDemand",
    "Outcome",
    "Policy",
    "Pressure",
    "Program",
    "Start",
    "Step",
    "Victim",
    "bound_s",
    "ideal",
    "of_rates",
    "optimum",
    "run",
    "sequence",
]
