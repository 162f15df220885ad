"""The figures of judges side by side as one picture, drawn with Pillow alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

MEASURES = (
    ("agreement", "right about single images"),
    ("agreement_shown", "… that show their prompt"),
    ("agreement_not_shown", "… that do not"),
    ("pairs_right", "prefers the right image of two"),
    ("swap_consistency", "same answer in both orders"),
    ("first_share", "prefers the first place (50 %: no bias)"),
)
"""Shares with an interval, in the order of the picture and the table."""
_COLOURS = ("#2a6fbb", "#d1662a", "#3a8f52", "#8d4fa8", "#b8902a", "#5f6b78")
_INK, _GREY, _LINE = "#1d2329", "#6a737d", "#dfe3e8"
_SCALE = 2
"""Drawn twice as large and made smaller: lines get smooth edges."""
_LEFT, _WIDTH, _ROW, _GROUP, _SQUARE, _TOP = 290, 400, 20, 14, 260, 64


def judge_picture(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draw the shares of each judge with their 95 % intervals, and what it said against what was true; a PNG.

    Args:
        figures: What `trial_figures` returned, by name of the judge; at least one.
    """
    names = list(figures)
    group = _ROW * len(names) + _GROUP
    height = max(_TOP + group * len(MEASURES) + 30, _TOP + _SQUARE + 60) + 26 * len(names) + 20
    width = _LEFT + _WIDTH + 70 + _SQUARE + 40
    picture = Image.new("RGB", (width * _SCALE, height * _SCALE), "white")
    pen = _Pen(ImageDraw.Draw(picture))
    pen.text(20, 18, "Judges on images with known answers", 17)
    _draw_shares(pen, figures, group)
    _draw_reliability(pen, figures)
    for place, name in enumerate(names):
        y = height - 20 - 26 * (len(names) - place)
        pen.dot(30, y + 8, place)
        pen.text(46, y, _legend(name, figures[name]), 12)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


class _Pen:
    """Draws in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw

    def text(self, x: float, y: float, words: str, size: int = 12, fill: str = _INK, anchor: str = "la") -> None:
        font = ImageFont.load_default(size * _SCALE)
        self.draw.text((x * _SCALE, y * _SCALE), words, fill=fill, font=font, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], fill: str, width: float = 1.0) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.draw.line(scaled, fill=fill, width=round(width * _SCALE))

    def dot(self, x: float, y: float, judge: int, radius: float = 5.0) -> None:
        box = [(value + side * radius) * _SCALE for side in (-1, 1) for value in (x, y)]
        self.draw.ellipse(box, fill=_COLOURS[judge % len(_COLOURS)])


def _draw_shares(pen: _Pen, figures: Mapping[str, Mapping[str, Any]], group: int) -> None:
    bottom = _TOP + group * len(MEASURES)
    for tick in range(0, 101, 25):
        x = _LEFT + _WIDTH * tick / 100
        pen.line([(x, _TOP), (x, bottom)], _LINE)
        pen.text(x, bottom + 4, f"{tick} %", 11, _GREY, "ma")
    for row, (key, words) in enumerate(MEASURES):
        top = _TOP + row * group
        pen.text(_LEFT - 12, top + (group - _GROUP) / 2, words, 12, _INK, "rm")
        for place, judge in enumerate(figures.values()):
            share, y = judge.get(key), top + _ROW * (place + 0.5)
            if share is None:
                pen.text(_LEFT + 4, y, "not measured", 10, _GREY, "lm")
                continue
            low, high = (_LEFT + _WIDTH * bound for bound in share["interval"])
            pen.line([(low, y), (high, y)], _COLOURS[place % len(_COLOURS)], 2)
            pen.dot(_LEFT + _WIDTH * share["value"], y, place)


def _draw_reliability(pen: _Pen, figures: Mapping[str, Mapping[str, Any]]) -> None:
    left, top = _LEFT + _WIDTH + 90, _TOP
    corners = [(left, top), (left + _SQUARE, top), (left + _SQUARE, top + _SQUARE), (left, top + _SQUARE), (left, top)]
    pen.line(corners, _LINE)
    pen.line([(left, top + _SQUARE), (left + _SQUARE, top)], _LINE, 1.5)
    pen.text(left, top - 20, "Share that really shows its prompt", 12, _GREY)
    pen.text(left + _SQUARE, top + _SQUARE + 6, "probability that the judge says", 12, _GREY, "ra")
    for place, judge in enumerate(figures.values()):
        points = [(left + _SQUARE * said, top + _SQUARE * (1 - true)) for said, true, _ in judge["reliability"]]
        if len(points) > 1:
            pen.line(points, _COLOURS[place % len(_COLOURS)], 1.5)
        for point, (_, _, count) in zip(points, judge["reliability"], strict=True):
            pen.dot(*point, place, radius=min(7.0, 2.0 + count**0.5 / 2))


def _legend(name: str, judge: Mapping[str, Any]) -> str:
    told = [f"{name[:60]}: {judge['looks']:,} looks"]
    if judge["seconds_per_look"] is not None:
        told.append(f"{judge['seconds_per_look']:.3g} s a look")
    cost = judge["cost_usd_per_1000_looks"]
    told.append("cost unknown" if cost is None else "free" if cost == 0 else f"${cost:,.2f} per 1,000 looks")
    if judge["unreadable"]:
        told.append(f"{100 * judge['unreadable']:.0f} % unreadable")
    return ", ".join(told)
