"""Everything that comes from outside the pack, drawn by hypothesis: files, headers, settings, sizes, prompts, requests.

    python tests/fuzz.py                        # once through all of it
    python tests/fuzz.py --inputs 10000         # with one seed after another, until so many inputs were tried
    python tests/fuzz.py --minutes 10 --record  # until so much time is over

The routes are asked on a real server, where a ComfyUI is found. `--record` writes the totals where docs/reliability.md takes them from.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from residency.installation.locate import find_comfyui

HERE = Path(__file__).parent
STRANGERS = {
    "tests/test_any_input.py": "",
    "tests/test_user_input.py": "",
    "tests/comfyui/test_strangers.py": "",
    "tests/test_workflow.py": "any_json",
    "tests/test_weights.py": "weights_errors",
    "tests/test_cli_units.py": "any_text or whatever",
    "tests/test_user_settings.py": "whatever",
    "tests/test_take_out.py": "makes_it_raise",
    "tests/test_embedded.py": "damaged",
    "tests/test_profiles.py": "whatever",
}
"""File → which of its tests, in words of pytest's -k; "" for all."""

TRIED = re.compile(r"(\d+) passing(?: examples)?, (\d+) failing")


def counted(output: str) -> tuple[int, int]:
    """Inputs and properties that hypothesis tells of in its statistics."""
    tried = [int(passing) + int(failing) for passing, failing in TRIED.findall(output)]
    return sum(tried), len(re.findall(r"during generate phase", output))


def once(seed: int) -> subprocess.CompletedProcess[str]:
    """All of it with one seed."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # there each run repeats the same inputs
    asked = {file: what for file, what in STRANGERS.items() if "comfyui" not in file or find_comfyui() is not None}
    words = " or ".join(f"({Path(file).name} and ({what}))" if what else Path(file).name for file, what in asked.items())
    command = [sys.executable, "-m", "pytest", "-q", f"--hypothesis-seed={seed}", "--hypothesis-show-statistics", "-k", words, *asked]
    return subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=1, help="until so many inputs were tried")
    parser.add_argument("--minutes", type=float, default=0.0, help="and so much time is over")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write the totals where docs/reliability.md takes them from")
    chosen = parser.parse_args(arguments)
    inputs, properties, started_s = 0, 0, time.monotonic()
    for seed in itertools.count(chosen.first_seed):
        ran = once(seed)
        more, properties = counted(ran.stdout)
        inputs += more
        if ran.returncode or not more:
            print(ran.stdout[-6000:], ran.stderr[-2000:], sep="\n")
            print(f"seed {seed} fails; to see it again: python tests/fuzz.py --first-seed {seed}")
            return 1
        if inputs >= chosen.inputs and time.monotonic() - started_s >= 60 * chosen.minutes:
            break
    seeds = seed - chosen.first_seed + 1
    print(f"{inputs:,} inputs to {properties} properties with {seeds} seeds held, {time.monotonic() - started_s:.0f} s")
    if chosen.record:
        sys.path.insert(0, str(HERE / "comfyui"))
        from totals import record

        record("fuzz", {"inputs": inputs, "properties": properties, "seeds": seeds, "first_seed": chosen.first_seed})
    return 0


if __name__ == "__main__":
    sys.exit(main())
