"""Several judges as one: they decide where they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from evolvedirector.judges.judge import Judge, models_of, outage_of
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts


class PanelJudge:
    """Ask several judges the same and follow them only where they agree; judges of other families err elsewhere.

    A member whose answer cannot be read has no voice, and an even answer (1/2) takes no side. The panel agrees where
    one side holds `agreement` of the weight of all that took a side and the weighted mean of the probabilities is on
    it. Its look is this mean, with the weighted mean of the covered masses. Without agreement a pair is a tie
    (probability 1/2), and a single image cannot be read (covered mass 0: there is no tie, and 1/2 would pass). The
    budget of looks counts one per question, whatever the number of members. With a hosted member one process asks all
    members, within the limits of the key: local ones then work on one device only.

    Example:
        ```yaml
        judge:
          class_path: evolvedirector.judges.PanelJudge
          init_args:
            judges:
              local: {class_path: evolvedirector.judges.TransformersJudge, init_args: {model: ...}}
              hosted: {class_path: evolvedirector.judges.OpenAIVisionJudge, init_args: {model: ...}}
            weights: {local: 1.0, hosted: 2.0}
        ```

    Args:
        judges: The members, by name.
        weights: Weight of each member's voice, over 0, by name. None: all alike.
        agreement: Share of the weight that must take the same side, over 0.5 to 1; 1 wants all of them.
        min_readable: Members whose answer must be readable; with fewer the look cannot be read.
        one_at_a_time: Close each member after its answers, so that two local models are never in memory together;
            they are then loaded again for every unit of questions of a round.

    Raises:
        ValueError: No member, weights that name others, or a number out of its range.
    """

    def __init__(
        self,
        judges: dict[str, Judge],
        weights: dict[str, float] | None = None,
        agreement: float = 1.0,
        min_readable: int = 1,
        one_at_a_time: bool = False,
    ) -> None:
        if not judges:
            raise ValueError("judges is empty. Allowed: at least one. Write `judges: {one: {class_path: ...}}`.")
        weights = dict.fromkeys(judges, 1.0) if weights is None else weights
        _check_weights(judges, weights)
        if not 0.5 < agreement <= 1.0:
            raise ValueError(f"agreement is {agreement}. Allowed: over 0.5 to 1. Write `agreement: 1.0` for all.")
        if not 1 <= min_readable <= len(judges):
            raise ValueError(f"min_readable is {min_readable}. Allowed: 1 to {len(judges)}, all judges. Write 1.")
        self.judges = judges
        self.weights = weights
        self.agreement = agreement
        self.min_readable = min_readable
        self.one_at_a_time = one_at_a_time

    @property
    def fingerprint(self) -> str:
        """Name all members with their weights, whatever their order, and the rule."""
        members = sorted(f"{name}*{self.weights[name]}: {judge.fingerprint}" for name, judge in self.judges.items())
        return f"panel-1/{digest(repr((self.agreement, self.min_readable)), *members)}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better; 1/2 without agreement.

        Args:
            pairs: Encoded images.
        """
        return self._ask([pair.item_id for pair in pairs], lambda judge: judge.look(pairs), 1.0)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt; unreadable without agreement.

        Args:
            items: Encoded images with their prompts.
        """
        return self._ask([item.item_id for item in items], lambda judge: judge.check(items), 0.0)

    @property
    def requests_in_flight(self) -> int:
        """Return how many questions a round should hand over at once; 0 where all members run here."""
        return requests_in_flight_of(*self.judges.values())

    def verify(self) -> None:
        """Let every member check that it can work, before anything is spent.

        Raises:
            ValueError: One cannot.
        """
        verify_parts(*self.judges.values())

    def estimated_bytes(self) -> int:
        """Return what the members need on a device at once, in bytes, as far as they say so."""
        return (max if self.one_at_a_time else sum)(bytes_of(*self.judges.values()))

    def price_usd(self) -> float | None:
        """Return what a look of all members costs in USD; None where one does not know."""
        return price_of(*self.judges.values())

    def models(self) -> frozenset[str]:
        """Name every model behind this judge."""
        return models_of(*self.judges.values())

    def close(self) -> None:
        """Free the memory and connections of all members."""
        close_parts(*self.judges.values())

    def _ask(self, names: Sequence[str], ask: Callable[[Judge], Iterable[Look]], mass_of_tie: float) -> Iterator[Look]:
        if not names:
            return
        answers: dict[str, dict[str, Look]] = {}
        for member, judge in self.judges.items():
            answers[member] = {look.item_id: look for look in ask(judge)}
            if self.one_at_a_time:
                judge.close()
        for name in names:
            found = {member: looks[name] for member, looks in answers.items() if name in looks}
            yield panel_look(name, found, self.weights, self.agreement, self.min_readable, mass_of_tie)


def panel_look(
    item_id: str,
    looks: Mapping[str, Look],
    weights: Mapping[str, float],
    agreement: float = 1.0,
    min_readable: int = 1,
    mass_of_tie: float = 1.0,
) -> Look:
    """Combine the looks of several judges at one thing.

    With w_j and p_j of the readable members, p = sum w_j p_j / sum w_j, and W the larger of the weights on the two
    sides of 1/2: agreed where W >= `agreement` (W_first + W_second) and p is on that side, else p = 1/2.

    Args:
        item_id: Name of the thing.
        looks: By member; one who gave none is left out.
        weights: By member.
        agreement: Share of the weight that must take the same side.
        min_readable: Members whose look must be readable.
        mass_of_tie: What the covered mass is multiplied by without agreement: 0 makes that unreadable.
    """
    read = {name: look for name, look in looks.items() if _is_readable(look)}
    if len(read) < min_readable:
        unread = next((look.reason for name, look in looks.items() if name not in read and look.reason), "no answer")
        reason = f"{len(read)} of {len(weights)} judges could be read: {unread}"
        sent, cut_off = outage_of(*looks.values())
        return Look(item_id, 0.5, 0.0, reason, sent=sent, cut_off=cut_off)
    total = sum(weights[name] for name in read)
    mean = sum(weights[name] * look.probability for name, look in read.items()) / total
    mass = min(1.0, sum(weights[name] * look.covered_mass for name, look in read.items()) / total)
    above = sum(weights[name] for name, look in read.items() if look.probability > 0.5)
    below = sum(weights[name] for name, look in read.items() if look.probability < 0.5)
    rung = "+".join(sorted({look.rung for look in read.values()} - {""}))
    if above == below == 0:
        return Look(item_id, 0.5, mass, rung=rung)
    agreed = max(above, below) >= agreement * (above + below) - 1e-9  # sums of weights are rounded
    if agreed and above != below and (mean > 0.5) == (above > below) and mean != 0.5:
        return Look(item_id, mean, mass, rung=rung)
    told = ", ".join(f"{name} {look.probability:.2f}" for name, look in read.items())
    return Look(item_id, 0.5, mass * mass_of_tie, f"the judges disagree: {told}", rung)


def _is_readable(look: Look) -> bool:
    return look.covered_mass >= MIN_COVERED_MASS and 0.0 <= look.probability <= 1.0


def _check_weights(judges: Mapping[str, Judge], weights: Mapping[str, float]) -> None:
    if set(weights) != set(judges):
        raise ValueError(
            f"weights names {', '.join(sorted(weights)) or 'nobody'}, the judges are {', '.join(sorted(judges))}. "
            "Allowed: one weight for each. Leave `weights` out for equal ones."
        )
    for name, weight in weights.items():
        if not 0.0 < weight < float("inf"):
            raise ValueError(f"weights.{name} is {weight}. Allowed: over 0. Leave a judge out to give it no voice.")
