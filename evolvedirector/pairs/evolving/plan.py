"""Which subjects are looked at and which are built from, and what of each in one round. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from evolvedirector.errors import UserError
from evolvedirector.pairs.evolving.cells import Cell
from evolvedirector.pairs.pair_records import ChangeKind, Subject
from evolvedirector.pairs.wishes import PairWish
from evolvedirector.records import seed_of

PAIRS_OF_A_ROUND = 100_000
"""Numbers of pairs of one subject and kind that a round has to itself; those below belong to `pairs build`."""


def parted(subjects: Sequence[Subject], look_share: float, seed: int) -> tuple[list[Subject], list[Subject]]:
    """Part subjects into those that are looked at and those that pairs are made of; a group stays together.

    What was trained on proves memory: the student is looked at with subjects of which no pair is ever made.

    Args:
        subjects: All.
        look_share: Share of the groups that are looked at; at least one is.
        seed: Of the lots.

    Raises:
        UserError: There is one group alone.
    """
    groups = sorted({_group(subject) for subject in subjects}, key=lambda name: seed_of("looked at", seed, name))
    looked = set(groups[: max(1, round(look_share * len(groups)))])
    if len(looked) == len(groups):
        raise UserError(
            f"The {len(subjects)} subjects are of {len(groups)} group, and {look_share} of the groups are looked at: "
            "none is left to make pairs of. Allowed are two groups or more (folders, or concepts). Add subjects, or "
            "write look_share: 0.2."
        )
    of = [[subject for subject in subjects if (_group(subject) in looked) is wanted] for wanted in (True, False)]
    return of[0], of[1]


def _group(subject: Subject) -> str:
    return subject.group or subject.name


def looks_of_round(
    subjects: Sequence[Subject], kinds: Sequence[ChangeKind], looks: int, seed: int
) -> list[tuple[Subject, ChangeKind]]:
    """Choose what the student is to draw in a round: kinds in turn, each with subjects by lot; none twice.

    Args:
        subjects: That may be looked at.
        kinds: Of change.
        looks: At most so many.
        seed: Of the round.
    """
    order = {kind: sorted(subjects, key=lambda subject: seed_of("look at", seed, kind, subject.name)) for kind in kinds}
    return [(order[kind][place], kind) for place in range(len(subjects)) for kind in kinds][:looks]


def wishes_of_round(
    chosen: Mapping[Cell, int], subjects: Sequence[Subject], round_index: int, seed: int
) -> list[PairWish]:
    """Name the pairs of a round: in each cell subjects by lot, all of them once before one comes twice.

    They stand in turn of the cells, each at the pace of its count: a limit that is reached cuts all alike.

    Args:
        chosen: Pairs by cell.
        subjects: To make pairs of.
        round_index: Of the round; another one makes other pairs of the same subjects.
        seed: Of the lots.
    """
    of_category: defaultdict[str, list[Subject]] = defaultdict(list)
    for subject in subjects:
        of_category[subject.category].append(subject)
    ranked: list[tuple[float, Cell, PairWish]] = []
    for cell, count in sorted(chosen.items()):
        lots = {s.name: seed_of("pair of", seed, round_index, cell.kind, s.name) for s in of_category[cell.category]}
        order = sorted(of_category[cell.category], key=lambda subject: lots[subject.name])
        for place in range(count):
            again, own = divmod(place, len(order))
            number = (round_index + 1) * PAIRS_OF_A_ROUND + again
            ranked.append(((place + 1) / (count + 1), cell, PairWish(order[own], cell.kind, number)))
    return [wish for _, _, wish in sorted(ranked, key=lambda item: item[:2])]
