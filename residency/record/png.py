"""The lanes of traces as a PNG, drawn with Pillow, which ComfyUI has. Any thread may call it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ..units import size
from .image import COLOURS, INK, STALL, STALL_DARK, Box, Lane, Trace, headline, lanes_of, text_colour, ticks

# Pillow's own font has neither arrows nor letters with accents: the systems' fonts first, by the names under which they are found.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf")
LINE, GRID = "#d8dee4", "#e6eaee"
ROW_PX, BOX_PX, GAP_PX = 44, 34, 5
LEFT_PX, RIGHT_PX, TITLE_PX, LEGEND_PX = 128, 24, 40, 30
BETWEEN_PX, AXIS_PX = 14, 56
HATCH_PX = 8
LEAST_LETTERS = 6  # what is shorter than that says nothing

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def png(traces: Sequence[tuple[str, Trace]], width_px: int = 1400) -> bytes:
    """The traces below each other on one time axis, each with its title: the bytes of a PNG `width_px` wide. Raises ValueError for none."""
    buffer = io.BytesIO()
    picture(traces, width_px).save(buffer, format="png")
    return buffer.getvalue()


def picture(traces: Sequence[tuple[str, Trace]], width_px: int = 1400) -> Image.Image:
    """The same as an RGB image of Pillow. Raises ValueError for no trace."""
    if not traces:
        raise ValueError("no trace to draw: run a prompt first")
    drawn = [(title, trace, lanes_of(trace)) for title, trace in traces]
    names = {
        part["key"]: (f"{part['name']} ({size(part['size_bytes'])})", COLOURS[index % len(COLOURS)])
        for _, trace in traces
        for index, part in enumerate(trace["components"])
    }
    legend = _legend(list(names.values()), width_px)
    rows = sum(lane.rows for _, _, lanes in drawn for lane in lanes)
    height_px = (
        rows * ROW_PX + len(drawn) * (TITLE_PX + BETWEEN_PX) + AXIS_PX + LEGEND_PX * (1 + max((row for row, *_ in legend), default=-1))
    )
    canvas = Canvas(width_px, height_px, max(1e-3, *(trace["duration_s"] for _, trace in traces)))
    top = 0
    for title, trace, lanes in drawn:
        heading = f"{title}  ·  {headline(trace)}" if title else headline(trace)
        canvas.write(LEFT_PX, top + TITLE_PX / 2, heading, 15, anchor="lm")
        top = canvas.lanes(top + TITLE_PX, lanes, trace["duration_s"]) + BETWEEN_PX
    canvas.axis(top)
    for row, x, label, colour in legend:
        y = top + AXIS_PX + row * LEGEND_PX
        canvas.draw.rectangle((x, y, x + 13, y + 13), fill=colour)
        canvas.write(x + 20, y + 7, label, 13, anchor="lm")
    return canvas.image


class Canvas:
    """An image with a time axis of `span_s` seconds between its margins."""

    def __init__(self, width_px: int, height_px: int, span_s: float) -> None:
        self.image = Image.new("RGB", (width_px, height_px), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.span_s = span_s
        self.scale = (width_px - LEFT_PX - RIGHT_PX) / span_s  # pixels a second

    def x(self, time_s: float) -> float:
        return LEFT_PX + time_s * self.scale

    def write(self, x: float, y: float, text: str, size_px: int, colour: str = INK, anchor: str = "mm") -> None:
        self.draw.text((x, y), _writable(text), fill=colour, font=font(size_px), anchor=anchor)

    def lanes(self, top: int, lanes: Sequence[Lane], duration_s: float) -> int:
        """Draw them from `top` on; returns where they end."""
        end = top + ROW_PX * sum(lane.rows for lane in lanes)
        for second in ticks(self.span_s):
            self.draw.line((self.x(second), top, self.x(second), end), fill=GRID)
        for lane in lanes:
            height_px = lane.rows * ROW_PX
            self.write(LEFT_PX - 10, top + height_px / 2, lane.title, 14, anchor="rm")
            for box in lane.boxes:
                self._box(top + box.row * ROW_PX + GAP_PX, box)
            for time_s, colour, _ in lane.marks:
                x, y = self.x(time_s), top + ROW_PX / 2
                self.draw.polygon([(x - 7, y - 6), (x + 7, y - 6), (x, y + 7)], fill=colour, outline=INK)
            top += height_px
            self.draw.line((LEFT_PX, top, self.x(self.span_s), top), fill=LINE)
        if duration_s < self.span_s:
            self.draw.line((self.x(duration_s), end - ROW_PX * sum(lane.rows for lane in lanes), self.x(duration_s), end), fill=INK)
        return end

    def axis(self, top: int) -> None:
        for second in ticks(self.span_s):
            self.write(self.x(second), top + 4, f"{second:g}", 13)
        told = "seconds from the start of the prompt; striped: the node waits for weights"
        self.write((LEFT_PX + self.x(self.span_s)) / 2, top + 28, told, 13)

    def _box(self, top: int, box: Box) -> None:
        left, right = self.x(box.start_s), self.x(max(box.end_s, box.start_s))
        self.draw.rectangle((left, top, max(right, left + 1), top + BOX_PX), fill=box.colour, outline="white")
        for wait_s, waited_s in box.waits:
            self._stripe(self.x(wait_s), top, self.x(wait_s + waited_s))
        solid = self.x(box.start_s + box.striped_s)
        if self._label(solid, right, top, box.label, text_colour(box.colour)):
            return
        if box.striped_s and (text := _cut(box.label, solid - left)):  # the striped part may have room instead
            middle, half = (left + solid) / 2, font(13).getlength(_writable(text)) / 2 + 3
            self.draw.rectangle((middle - half, top + 8, middle + half, top + BOX_PX - 8), fill="white")
            self.write(middle, top + BOX_PX / 2, text, 13)

    def _label(self, left: float, right: float, top: int, label: str, colour: str) -> bool:
        if text := _cut(label, right - left):
            self.write((left + right) / 2, top + BOX_PX / 2, text, 13, colour)
        return bool(text)

    def _stripe(self, left: float, top: int, right: float) -> None:
        """A dark patch with bright lines, drawn apart and put in place: Pillow has no clipping."""
        width = max(round(right - left), 1)
        patch = Image.new("RGB", (width, BOX_PX + 1), STALL_DARK)
        draw = ImageDraw.Draw(patch)
        for x in range(-BOX_PX, width, HATCH_PX):
            draw.line((x, BOX_PX, x + BOX_PX, 0), fill=STALL, width=4)
        self.image.paste(patch, (round(left), top))


@lru_cache(maxsize=8)
def font(size_px: int) -> Font:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return ImageFont.load_default(size_px)


def _writable(text: str) -> str:
    """The text in characters that the font has: for others Pillow's own would draw boxes."""
    return text.replace(" → ", " to ") if font(13).getname()[0] == "Aileron" else text  # type: ignore[union-attr]


def _cut(label: str, width_px: float) -> str:
    """The label, its end left out where it does not fit; empty where too little would be left."""
    room = width_px - 8
    if font(13).getlength(_writable(label)) <= room:
        return label
    fit = next((end for end in range(len(label), 0, -1) if font(13).getlength(_writable(label[:end]) + "…") <= room), 0)
    return label[:fit] + "…" if fit + 1 >= LEAST_LETTERS else ""


def _legend(names: Sequence[tuple[str, str]], width_px: int) -> list[tuple[int, float, str, str]]:
    """(row, x, label, colour) of each name, in as many rows as it takes."""
    placed: list[tuple[int, float, str, str]] = []
    row, x = 0, float(LEFT_PX)
    for label, colour in names:
        length = 20 + font(13).getlength(_writable(label)) + 26
        if x > LEFT_PX and x + length > width_px:
            row, x = row + 1, float(LEFT_PX)
        placed.append((row, x, label, colour))
        x += length
    return placed
