"""Every fault that is tried on a real ComfyUI server, what comes of it, and what the log says: the tests' own list, and the page of it.

python tests/comfyui/faults.py        # writes docs/reliability.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from totals import recorded

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

GOES_ON = "failed; ComfyUI goes on"
LEFT = "is left to ComfyUI, reading it ahead failed:"


@dataclass(frozen=True, slots=True)
class Fault:
    """`name` is what the pack of faults is asked for. `says`: words of the one line in the log; "" where nothing is said. `traced`: with
    the traceback of what is a bug of ours."""

    name: str
    happens: str
    says: str
    traced: bool = False
    outcome: str = "the same image"

    @property
    def abandons(self) -> bool:
        """Whether the rest of the prompt is left to ComfyUI."""
        return self.name.startswith(("hook", "limits", "core", "look", "errand", "results"))


@dataclass(frozen=True, slots=True)
class FileFault:
    """A change of a file in mid-prompt, after the node `after`, when its reading is planned, under way, or over."""

    how: str
    what: str
    after: str

    @property
    def happens(self) -> str:
        return f"the {self.what}'s file is {DONE.get(self.how, self.how)} {WHEN[self.after]}"


DONE = {"twin": "replaced by one of the same size and time", "rewritten": "rewritten in place", "emptied": "cut to nothing"}
WHEN = {"5": "before anything is loaded", "4": "when the text has been encoded", "6": "after the first sampler"}

DRIVE = (
    Fault("read error", "each read of the drive fails (EIO)", f"residency_expert_b {LEFT}"),
    Fault("network share gone", "each read fails as a network share's that is gone (ESTALE)", f"residency_expert_b {LEFT}"),
    Fault("short read", "each read returns nothing, as at a file's end", f"residency_expert_b {LEFT}"),
    Fault("out of memory in a read", "each read fails for want of memory (ENOMEM)", f"residency_expert_b {LEFT}"),
    Fault("slow drive", "each read takes half a second longer", ""),
    Fault("thread ended", "what ends a thread is raised in a read", f"residency_expert_b {LEFT}"),
    Fault("permission denied", "no file can be opened (EACCES)", f"residency_expert_b {LEFT}"),
    Fault("no file handles", "no file handle is left (EMFILE)", f"residency_expert_b {LEFT}"),
    Fault(
        "no handles for us", "no file handle is left for the pack's code, whichever thread runs it (EMFILE)", f"residency_expert_b {LEFT}"
    ),
    Fault("file gone at open", "the file is gone when it is opened (ENOENT)", f"residency_expert_b {LEFT}"),
    Fault("cannot be dropped", "the system refuses to forget a file's pages", ""),
    Fault("system refuses: cached_in", "the system does not say which pages of a file are cached", ""),
    Fault("system refuses: counted_in", "the system does not count cached pages", ""),
    Fault("no threads", "no thread can be started", ""),
)
MEMORY = (
    Fault("memory: little", "the memory that is available falls to 32 MiB, as a control group's limit lowers it", ""),
    Fault("memory: little, later", "it falls to 32 MiB in the middle of the prompt", ""),
    Fault("memory: none", "no memory is available", ""),
    Fault("memory: unknown", "the system does not say how much memory is available", ""),
)
# what the core is told of in a prompt, in its order; what follows from the first failure is ComfyUI's own
TOLD = {
    "PromptStarted": "a prompt begins",
    "HostObserved": "what host memory holds is told",
    "NodeStarted": "a node starts",
    "Stalled": "a node has waited",
    "Stepped": "a step has ended",
    "NodeFinished": "a node ends",
    "PrefetchAsked": "a node asks for a model",
    "ReleaseAsked": "a node releases a model",
    "PromptEnded": "a prompt ends",
}
ASKED = ("PrefetchAsked", "ReleaseAsked")
ASKS = ("chooses", "teaches")
HOOKS = (
    *("prompt_begins", "choose_node", "node_starts", "node_outputs", "node_completes", "prompt_ends", "spared", "dropped"),
    *("load_stalled", *ASKS),
)
OURS = (
    *(
        Fault(f"hook raises: {name}", f"the hook {name} raises", f"{'_in_prompt' if name in ASKS else '_breaks'} {GOES_ON}", True)
        for name in HOOKS
    ),
    Fault("core fails", "the deciding core raises", "failed; ComfyUI goes on without it", True),
    Fault("panel fails", "what tells the panel raises at each event", "on_update failed: nothing depends on it", True),
    Fault("recording fails", "what records the facts raises at each event", "recorder failed: nothing depends on it", True),
    Fault(
        "mover raises: prefetch",
        "the disk mover raises when it is told to read",
        "the host mover failed on residency_expert_b",
        traced=True,
    ),
    Fault(
        "mover raises: so_far", "the disk mover raises when it is asked how far it is", "trace failed: nothing depends on it", traced=True
    ),
    Fault("core fails: later", "the deciding core raises in the middle of the prompt", "failed; ComfyUI goes on without it", True),
    Fault("look raises", "looking at what host memory holds raises", "failed; ComfyUI goes on without it", True),
    Fault("results raise: _look_at_files", "looking at the files of kept results raises", "prompt_begins failed; ComfyUI goes on", True),
    Fault("limits raise: of_host", "asking how much memory is available raises", "failed; ComfyUI goes on without it", True),
    Fault(
        "errand raises: _look", "what looks at queue and profiles on a thread of its own raises", "_breaks failed; ComfyUI goes on", True
    ),
    *(
        Fault(f"core fails at: {name}", f"the deciding core raises when {what}", "failed; ComfyUI goes on without it", True)
        for name, what in TOLD.items()
    ),
    Fault("profiles: disk full", "the drive of the profiles is full", "profiles are kept for this session only"),
    Fault("profiles: corrupt", "the file of the profiles is corrupt", "profiles begin anew"),
    Fault("profiles: locked", "another program keeps the profiles locked", "profiles are kept for this session only"),
    Fault("profiles: read-only", "nothing may be written to the profiles", "profiles are kept for this session only"),
    Fault("profiles: a folder", "a folder lies where the profiles should", "profiles are kept for this session only"),
)
FILES = tuple(
    FileFault(how, what, after)
    for what, after in (("diffusion model", "5"), ("VAE", "4"), ("second diffusion model", "6"))
    for how in ("replaced", "twin", "rewritten", "touched", "truncated", "emptied", "deleted")
    if what != "VAE" or how in ("touched", "truncated", "emptied", "deleted")
)
INTERRUPTS = (
    "an interrupt while files are read ahead",
    "an interrupt while a model is loaded",
    "an interrupt in the first sampler",
    "an interrupt in the second sampler",
    "the queue is cleared while files are read ahead",
    "the queue is cleared while a model is loaded",
    "the queue is cleared in the second sampler",
    "a queued prompt is deleted while files are read ahead",
    "the pack is switched off while files are read ahead",
    "the pack is switched off and on while files are read ahead",
    "ComfyUI is told to free all memory in mid-prompt",
)
SHUTDOWNS = ("the server is ended while files are read ahead", "the server is interrupted (Ctrl-C) while files are read ahead")
LIMITS = ("the memory limit of its control group is lowered while files are read ahead",)


def page() -> str:
    """docs/reliability.md."""
    rows = [
        (one.happens, one.outcome, f"“… {one.says} …”" if one.says else "nothing: only time is lost") for one in (*DRIVE, *MEMORY, *OURS)
    ]
    rows += [(one.happens, "the same image, or the same error", "ComfyUI's own error, where there is one") for one in FILES]
    rows += [(one, "it ends as ComfyUI ends it", "what ComfyUI says") for one in INTERRUPTS]
    rows += [(one, "the same image", "nothing: less is read ahead") for one in LIMITS]
    rows += [(one, "the process ends", "what ComfyUI says") for one in SHUTDOWNS]
    head = ("what happens", "what comes of the prompt, as without the pack", "what the log says, once")
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * 3, *rows))
    known = recorded()
    text = TEXT.format(
        count=len(rows),
        table=table,
        shuffled=told_shuffled(known.get("shuffled", {})),
        fuzz=told_fuzz(known.get("fuzz", {})),
        soak=told_soak(known.get("soak", {}), "On the CPU", "soak.svg"),
        soak_gpu=told_soak(known.get("soak on a GPU", {}), "On a GPU of which 8 GiB are free", "soak-gpu.svg"),
        count_faults=len(FOUND_FAULTS),
        found_faults="\n".join(f"- {one}" for one in FOUND_FAULTS),
        count_shuffled=len(FOUND_SHUFFLED),
        count_fuzz=len(FOUND_FUZZ),
        found_shuffled="\n".join(f"- {one}" for one in FOUND_SHUFFLED),
        found_fuzz="\n".join(f"- {one}" for one in FOUND_FUZZ),
    )
    return text.rstrip("\n") + "\n"


TEXT = """# What happens when something fails

Whatever fails, the workflow runs as it would without the pack. Below are the {count} faults that the tests cause on a real ComfyUI server,
each while a prompt with cold files runs. `tests/comfyui/test_faults.py` holds the outcome against that of the same prompt with the pack off
and looks for the one line in the log. Then it runs another prompt: its image is the same as ever, nothing of it fails, and neither a thread
of the pack nor an open model file is left. This page is written by `python tests/comfyui/faults.py`.

{table}

A drive that hangs, and a device that does, hold no route, no prompt and no end of the server (`tests/comfyui/test_event_loop.py`): a prompt
waits for at most half a minute for what was copied to the device, and the pack is then off until a mode is chosen again.

Looks at what was not yet in this table have found {count_faults}, and the code has been mended:

{found_faults}

## In any order

The tests of a server try one fault at a time. `python tests/shuffled.py --steps 1000000` has them at any instant and in any order: the
shipping runtime, session and core live in a world whose events are drawn from a seed. Reads and copies are answered late, in part, as
refusals, or fail; files vanish and come back; the page cache loses what it held; limits fall and rise; nodes are taken in another order
than was foretold; prompts break, the queue changes, the pack is switched off and on; movers and hooks raise, and the core itself fails in
the middle of a decision. After each step what the core believes is held against what is true: no more is announced than there is room for;
nothing in use is told to leave; whatever is on its way is being brought by somebody; every trace ends. At the end of each history all is
answered, no node waits, and another look at what does not change moves nothing. A seed that fails prints the command that tells its story
again.
{shuffled}

It has found {count_shuffled}, and the code has been mended:

{found_shuffled}

## From anybody

Workflow files, headers of weights, settings, sizes, prompts and requests are drawn by hypothesis: `python tests/fuzz.py --inputs 10000`, or
`--minutes 60` for longer. The routes are asked on a real server, where there is one. Each is taken, or refused in one sentence, and no path
that a stranger names is opened.
{fuzz}

It has found {count_fuzz}, and the code has been mended:

{found_fuzz}

## For a long time

`python tests/comfyui/soak.py --prompts 1000` runs mixed prompts on one server, while a user who is drawn from a seed interrupts, deletes
and clears what is queued, changes modes and settings, replaces files, frees memory and looks at the panel. Every image is one of those that
ComfyUI draws without the pack. When nothing runs, nothing is loaded and nothing cached, memory, threads, handles and pins are what they
were before.

The little that memory grows by is ComfyUI's: from the 100th to the 300th prompt, every fourth with a model, the process grew by 3.0 MiB
with the pack and by 3.5 MiB without, Python's allocator by 41,266 and 41,004 blocks, and the pack had 1,092 objects, then 1,100 (one run
of each, `GET /gauges/objects` at rest).
{soak}
{soak_gpu}
"""

FOUND_FAULTS = (
    "what only asks whether there is anything to choose or to learn raised into ComfyUI, and a choice so ended its worker for good",
    "a core that failed while a wait was told ended the node, at a load and where a node is held",
    "a core that failed at what our own nodes ask for ended them",
    "each request that asked a drive that hangs took one of asyncio's few threads, until no route answered that needs one",
    "a prompt waited for ever for a device that hung when the pack was switched off and on",
    "a probe of the doctor that failed was told in its answer, and nowhere else",
)
FOUND_SHUFFLED = (
    "a release that waited for its node outlived an interrupted prompt, and the next prompt took the pack out",
    "what was both asked for and expected was announced twice",
    "bytes that were pinned while they were read counted twice: evictions were told behind a file's end and freed nothing",
    "a look was believed of what a mover had changed since",
    "what was asked for beside the graph was read again at each look",
    "what was given up on its way left from under a node that had begun",
    "reading went on for a prompt that had broken, and copying for a node that had ended",
    "who follows a run could take its decisions with it",
    "a core that had failed stayed half-decided for ever",
    "a refusal that failed left other threads waiting",
    "the rest of what is on its way was forgotten while its second copy left, and what is read later took its room",
)
FOUND_FUZZ = (
    "a size of 400 digits was a traceback",
    "a refusal was as long as the name of a class that is not installed",
)


def told_shuffled(figures: dict[str, Any]) -> str:
    if not figures:
        return ""
    steps, histories, first = (figures[name] for name in ("steps", "histories", "first_seed"))
    return f"The last recorded run: {steps:,} steps in {histories:,} histories, seeds {first} to {first + histories - 1:,}, held."


def told_fuzz(figures: dict[str, Any]) -> str:
    if not figures:
        return ""
    return f"The last recorded run: {figures['inputs']:,} inputs to {figures['properties']} properties, {figures['seeds']} seeds, held."


def told_soak(figures: dict[str, Any], where: str, picture: str) -> str:
    if not figures:
        return ""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in figures["outcomes"].items())
    line = f"{where}: {figures['prompts']:,} prompts in {figures['minutes']:g} minutes (seed {figures['seed']}): {outcomes}."
    line += f" The user acted {sum(figures['acts'].values()):,} times."
    return f"\n{line}\n\n![memory, threads and handles over the prompts, {where}]({picture})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
