"""Each prompt by its place on its server: a user waits for every one of them, and the second is not like the sixth.

A place has a figure of its own: the seconds of the queue, those that the pack told before it was posted, and the bytes that the server has
had read from the drive since the one before it ended. Several rounds give the median of each place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Data = Mapping[str, Any]


def sides(runs: Iterable[Data], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For a scenario's summary, each side that has run: its median, its places, and the least ratio of the first name's prompts to its
    own."""
    told = {side: _side([run for run in runs if run["side"] == side]) for side in names}
    stock = told[names[0]]
    for one in told.values():
        seconds, ours = ({place["place"]: place["seconds"] for place in which["places"]} for which in (stock, one))
        ratios = [seconds[place] / ours[place] for place in ours if place in seconds]
        one["ratio"] = stock["seconds"] / one["seconds"] if stock["seconds"] and one["seconds"] else None
        one["least_ratio"] = min(ratios, default=None)
    return {side: one for side, one in told.items() if one["runs"]}


def _side(runs: Sequence[Data]) -> dict[str, Any]:
    found = sorted({run["place"] for run in runs if "place" in run})  # results of before have none
    places = [_place(place, [run for run in runs if run.get("place") == place]) for place in found]
    read = [one["drive_bytes"] for one in places]
    told = {"runs": len(runs), "seconds": median(run["seconds"] for run in runs) if runs else None, "places": places}
    told["most_s"] = max((one["seconds"] for one in places), default=None)
    told["most_drive_bytes"] = None if not read or None in read else max(read)
    return told


def _place(place: int, runs: Sequence[Data]) -> dict[str, Any]:
    parts = [run.get("parts") or [] for run in runs]
    told = {"place": place, **_medians(runs)}
    if all(parts) and len({len(one) for one in parts}) == 1:
        told["parts"] = [_medians(several) for several in zip(*parts, strict=True)]
    return told


def _medians(several: Sequence[Data]) -> dict[str, Any]:
    seconds, known = median(one["seconds"] for one in several), {"drive_bytes": _middle(one["drive_bytes"] for one in several)}
    predicted_s = _middle(one.get("predicted_s") for one in several)  # results of before have none
    return {"seconds": seconds, **known, **({} if predicted_s is None else {"predicted_s": predicted_s})}


def _middle(values: Iterable[float | None]) -> float | None:
    """The median of all; None when one is not known."""
    known = list(values)
    return None if None in known else median(value for value in known if value is not None)


# --- as text ---


def columns(results: Data) -> list[int]:
    """The places that any scenario has, in their order."""
    every = (one["sides"].values() for raw in results["scenarios"].values() if (one := raw["summary"]))
    return sorted({place["place"] for sides in every for side in sides for place in side["places"]})


def rows(results: Data) -> list[list[str]]:
    """Scenario, side, median, ratio to stock with the least of its places, then each place; [] when no run knows its place."""
    order = columns(results)
    found = []
    for name, raw in results["scenarios"].items():
        for side, told in raw["summary"]["sides"].items():
            at = {one["place"]: one for one in told["places"]}
            if at:
                found.append([name, side, f"{told['seconds']:.2f}", _ratio(told), *(_cell(at.get(place)) for place in order)])
    return found


def head(results: Data, say: Callable[[int], str] = str) -> list[str]:
    return ["scenario", "side", "median s", "stock ÷ side", *(say(place) for place in columns(results))]


def read(told: Data, side: str) -> str:
    """GB that the side's middle prompt read from the drive."""
    values = [one["drive_bytes"] for one in told["sides"].get(side, {"places": ()})["places"]]
    middle = _middle(values) if values else None
    return "–" if middle is None else f"{middle / 1e9:.1f}"


def _ratio(told: Data) -> str:
    if told["ratio"] is None:
        return "–"
    return f"{told['ratio']:.2f}×" if told["least_ratio"] is None else f"{told['ratio']:.2f}× (least {told['least_ratio']:.2f})"


def _cell(one: Data | None) -> str:
    """Seconds, as they were and as foretold, and GB; of a queue whose prompts were posted one by one also each of them."""
    if one is None:
        return "–"
    parts = one.get("parts", ())
    return _figure(one) + (f" = {' + '.join(_figure(part) for part in parts)}" if len(parts) > 1 else "")


def _figure(one: Data) -> str:
    read = "" if one["drive_bytes"] is None else f", {one['drive_bytes'] / 1e9:.1f} GB"
    foretold = f" ({one['predicted_s']:.2f} foretold)" if "predicted_s" in one else ""
    return f"{one['seconds']:.2f} s{foretold}{read}"
