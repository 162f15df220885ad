"""What goes wrong, and when: a plan per request, or shares drawn from a seed; never dependent on who comes first."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from evolvedirector.records import seed_of

Stage = Literal["submit", "poll", "media"]
"""A request that is paid for; a question how far it is; the download of a result."""

GOOD = ""
UNBILLED = ("busy", "busy_silent", "error_500", "error_502", "error_503", "timeout_408", "cut_early", "error_inside")
"""Ends a request before anything is made; asking again is right."""
BILLED = ("cut_late", "cut_body", "length_too_small", "length_too_large", "garbage", "html")
"""The image is made and charged, the answer cannot be used; asking again pays twice, unless keys are honoured."""
STALLS = ("slow", "hang")
"""Made and charged, but the answer never comes to an end."""
BREAKERS = ("bad_key", "no_credit", "forbidden")
"""Every further request would fail alike."""
REFUSALS = ("moderated",)
BAD_IMAGES = ("bomb_header", "bomb_uniform", "html_image", "black", "torn_image", "empty")
"""Delivered as an image, made and charged, and not fit to be kept."""
BAD_MEDIA = ("expired", "link_local", "private", "http_url", "elsewhere", "redirect_loop")
"""Faults of result URLs."""


class Script:
    """Say which fault meets the n-th arrival of a request.

    Args:
        submit: Faults of a request's first arrivals, in order; an empty name is none.
        poll: The same for questions about one job.
        media: The same for downloads of one result.
        shares: Probability of each fault of stage `submit` after its plan; drawn by (seed, request, arrival).
        seed: Another seed makes another day.
        only: Texts; requests whose name contains none of them meet no fault. Empty: all may.
        by_prompt: Plans of stage `submit` for single prompts, in place of the others.
    """

    def __init__(
        self,
        submit: Sequence[str] = (),
        poll: Sequence[str] = (),
        media: Sequence[str] = (),
        shares: Mapping[str, float] | None = None,
        seed: int = 0,
        only: Sequence[str] = (),
        by_prompt: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._plans: dict[Stage, Sequence[str]] = {"submit": submit, "poll": poll, "media": media}
        self._shares = dict(shares or {})
        self._seed = seed
        self._only = only
        self._by_prompt = dict(by_prompt or {})

    def fault(self, stage: Stage, name: str, arrival: int) -> str:
        if self._only and not any(text in name for text in self._only):
            return GOOD
        plan = self._plans[stage]
        if stage == "submit":  # its name ends with the prompt
            plan = self._by_prompt.get(name.partition(" ")[2], plan)
        if arrival < len(plan):
            return plan[arrival]
        if stage != "submit":
            return GOOD
        left = random.Random(seed_of("chaos", self._seed, name, arrival)).random()
        for fault, share in self._shares.items():
            left -= share
            if left < 0:
                return fault
        return GOOD


ALWAYS = 1000


def always(fault: str) -> list[str]:
    """A plan that never ends."""
    return [fault] * ALWAYS
