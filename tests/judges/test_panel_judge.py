"""A panel decides where its members agree, and nowhere else."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.judges.judge import Judge
from evolvedirector.judges.panel_judge import PanelJudge, panel_look
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair
from evolvedirector.records.looks import preference_of, reading_of

NAMES = ("a", "b", "c")
PAIR = OrderedPair("pair", b"1", b"2", "p")
ITEM = ImageAndPrompt("item", b"1", "p")


class Member:
    """Says one probability of everything; notes who is open when."""

    def __init__(
        self, probability: float, mass: float = 1.0, silent: bool = False, broken: bool = False, sent: bool = True
    ) -> None:
        self.probability, self.mass, self.silent, self.broken, self.events = probability, mass, silent, broken, []
        self.sent = sent

    @property
    def fingerprint(self) -> str:
        return f"member {self.probability}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        self.events.append("asked")
        yield from (self.seen(p.item_id) for p in pairs if not self.silent)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        self.events.append("asked")
        yield from (self.seen(i.item_id) for i in items if not self.silent)

    def seen(self, name: str) -> Look:
        return Look(name, self.probability, self.mass, "busy", sent=self.sent)

    def estimated_bytes(self) -> int:
        return 7

    def verify(self) -> None:
        if self.broken:
            raise ValueError("No such model.")

    def close(self) -> None:
        self.events.append("closed")
        if self.broken:
            raise OSError("stuck")


def panel(*members: Member, **options) -> PanelJudge:
    return PanelJudge(dict(zip(NAMES, members, strict=False)), **options)


def pair_preference(judge: PanelJudge) -> str:
    return preference_of(next(judge.look([PAIR])))


def test_the_panel_tells_how_its_readable_members_were_read() -> None:
    looks = {
        "a": Look("i", 0.9, rung="text"),
        "b": Look("i", 0.8, rung="logprobs"),
        "c": Look("i", 0.5, 0.0, "?", "choice"),
    }
    assert panel_look("i", looks, dict.fromkeys(NAMES, 1.0)).rung == "logprobs+text"


def single_reading(judge: PanelJudge) -> str:
    return reading_of(next(judge.check([ITEM])))


above = st.floats(0.501, 1.0)
below = st.floats(0.0, 0.499)
weights = st.fixed_dictionaries({name: st.floats(0.01, 100.0) for name in NAMES})


def looks(*probabilities: float) -> dict[str, Look]:
    return {name: Look("x", p) for name, p in zip(NAMES, probabilities, strict=False)}


@settings(max_examples=40)
@given(st.lists(above, min_size=1, max_size=3), weights, st.booleans())
def test_a_unanimous_panel_keeps_the_verdict(said: list[float], weight: dict[str, float], mirrored: bool) -> None:
    said = [1 - p for p in said] if mirrored else said
    look = panel_look("x", looks(*said), weight)
    assert (look.probability < 0.5) if mirrored else (look.probability > 0.5)
    assert min(said) - 1e-9 <= look.probability <= max(said) + 1e-9 and look.covered_mass == pytest.approx(1.0)


@settings(max_examples=40)
@given(above, below, st.floats(0.0, 1.0), weights)
def test_a_panel_that_disagrees_is_a_tie_whatever_the_weights(
    one: float, other: float, third: float, weight: dict[str, float]
) -> None:
    look = panel_look("x", looks(one, other, third), weight)
    assert look.probability == 0.5 and look.covered_mass == pytest.approx(1.0) and "disagree" in look.reason


@settings(max_examples=40)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3), weights, st.floats(0.51, 1.0))
def test_swapping_the_order_mirrors_the_look(said: list[float], weight: dict[str, float], agreement: float) -> None:
    forth = panel_look("x", looks(*said), weight, agreement)
    back = panel_look("x", looks(*(1 - p for p in said)), weight, agreement)
    assert forth.probability == pytest.approx(1 - back.probability)


@settings(max_examples=40)
@given(st.lists(above, min_size=2, max_size=2), weights, st.sampled_from([0.0, 0.49]))
def test_one_unreadable_member_does_not_silence_the_others(said: list[float], weight: dict, mass: float) -> None:
    found = looks(*said) | {"c": Look("x", 0.1, mass, "refused")}
    assert panel_look("x", found, weight) == panel_look("x", looks(*said), weight)


def test_weights_decide_where_a_majority_is_enough() -> None:
    weight = {"a": 1.0, "b": 1.0, "c": 3.0}
    assert panel_look("x", looks(0.9, 0.9, 0.2), weight, 0.6).probability < 0.5
    assert panel_look("x", looks(0.9, 0.9, 0.2), weight, 0.61).probability == 0.5
    # the heavier side is hardly sure: the mean is on the other side, and that is no agreement
    assert panel_look("x", looks(1.0, 1.0, 0.49), weight, 0.6).probability == 0.5


def test_an_even_answer_takes_no_side() -> None:
    assert panel_look("x", looks(0.9, 0.5), dict.fromkeys(NAMES, 1.0)).probability == pytest.approx(0.7)
    assert panel_look("x", looks(0.5, 0.5), dict.fromkeys(NAMES, 1.0)) == Look("x", 0.5)


def test_a_disagreement_about_one_image_is_no_yes() -> None:
    assert single_reading(panel(Member(0.9), Member(0.1))) == "unreadable"
    assert pair_preference(panel(Member(0.9), Member(0.1))) == "tie"
    assert single_reading(panel(Member(0.9), Member(0.6))) == "shows"
    assert single_reading(panel(Member(0.1), Member(0.4))) == "lacks"


def test_silence_and_unreadable_answers_are_told() -> None:
    judge = panel(Member(0.9, silent=True), Member(0.9, mass=0.1))
    look = next(judge.look([PAIR]))
    assert preference_of(look, None) == "unreadable" and look.reason == "0 of 2 judges could be read: busy"
    assert pair_preference(panel(Member(0.9, silent=True), Member(0.8))) == "first"
    assert pair_preference(panel(Member(0.9, silent=True), Member(0.8), min_readable=2)) == "unreadable"


@pytest.mark.parametrize(
    ("other", "sent", "cut_off"),
    [
        (Member(0.5, mass=0.0, sent=False), False, False),
        (Member(0.9, mass=0.1), True, True),
        (Member(0.9, silent=True), False, False),
    ],
)
def test_an_outage_of_members_is_one_of_the_panel(other: Member, sent: bool, cut_off: bool) -> None:
    away = Member(0.5, mass=0.0, sent=False)
    look = next(panel(away, other).check([ITEM]))
    assert (look.covered_mass, look.sent, look.cut_off) == (0.0, sent, cut_off)
    decided = next(panel(away, other, Member(0.9)).check([ITEM]))
    assert decided.sent and not decided.cut_off and reading_of(decided) == "shows"


def test_a_hosted_member_makes_it_a_hosted_judge() -> None:
    hosted = Member(0.9)
    hosted.requests_in_flight = 40
    assert panel(Member(0.8), hosted).requests_in_flight == 40
    assert panel(Member(0.8)).requests_in_flight == 0


def test_every_item_gets_its_answer_and_nothing_is_asked_for_nothing() -> None:
    member = Member(0.9)
    judge = panel(member, Member(0.8))
    items = [ImageAndPrompt(str(place), b"", "p") for place in range(5)]
    assert isinstance(judge, Judge)
    assert [look.item_id for look in judge.check(items)] == list("01234")
    assert list(judge.check([])) == [] and list(judge.look([])) == [] and member.events == ["asked"]


def test_one_member_at_a_time_is_in_memory() -> None:
    events: list[str] = []
    members = [Member(0.9), Member(0.8)]
    for member in members:
        member.events = events
    list(panel(*members, one_at_a_time=True).check([ITEM]))
    assert events == ["asked", "closed", "asked", "closed"]
    assert panel(*members, one_at_a_time=True).estimated_bytes() == 7 and panel(*members).estimated_bytes() == 14


def test_all_are_closed_and_checked() -> None:
    members = [Member(0.9, broken=True), Member(0.8)]
    with pytest.raises(OSError, match="stuck"):
        panel(*members).close()
    assert members[1].events == ["closed"]
    with pytest.raises(ValueError, match="No such model"):
        panel(members[1], members[0]).verify()


def test_members_weights_and_rule_are_named_and_their_order_is_not() -> None:
    one, other = Member(0.9), Member(0.8)
    same = [PanelJudge({"a": one, "b": other}), PanelJudge({"b": other, "a": one})]
    others = [PanelJudge({"a": other, "b": one}), panel(one, other, weights={"a": 1.0, "b": 2.0}), panel(one),
              panel(one, other, agreement=0.6), panel(one, other, min_readable=2)]  # fmt: skip
    assert same[0].fingerprint == same[1].fingerprint
    assert len({judge.fingerprint for judge in [same[0], *others]}) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": {"a": 1.0}}, "weights names a, the judges are a, b"),
        ({"weights": {"a": 1.0, "b": 0.0}}, "weights.b is 0.0"),
        ({"agreement": 0.5}, "agreement is 0.5"),
        ({"min_readable": 3}, "min_readable is 3"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        panel(Member(0.9), Member(0.8), **options)


def test_a_panel_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="judges is empty"):
        PanelJudge({})
