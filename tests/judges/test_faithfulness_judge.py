"""An image is judged by all parts of its prompt, and an unfaithful one never wins."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.judges.faithfulness import AtomJudge, missing
from evolvedirector.judges.faithfulness_judge import FaithfulnessJudge, compared
from evolvedirector.judges.judge import Judge
from evolvedirector.judges.questions.prompt_questions import MAX_QUESTIONS
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair
from evolvedirector.records.looks import preference_of, reading_of
from evolvedirector.records.questions import Answer, Question
from evolvedirector.worlds import GrammarQuestions
from evolvedirector.worlds.shapes import World, draw, parse, read
from evolvedirector.worlds.shapes.artist import to_png
from evolvedirector.worlds.shapes.atoms import answer, atoms_of
from evolvedirector.worlds.shapes.judge import decode

PROMPTS = ("a red circle", "a red circle and a blue square", "three green stars", "a red circle above a blue square")
ATOMS = {f"{atom.question} Answer yes or no.": atom for prompt in PROMPTS for atom in atoms_of(parse(prompt))}


def judge_of_scenes(*parts: Any, **settings: Any) -> FaithfulnessJudge:
    return FaithfulnessJudge(*parts, **{"questions": GrammarQuestions(), **settings})


class Reader:
    """Answers the questions of the miniature grammar by reading; remembers what it was asked."""

    def __init__(self, unread: str = "nothing", silent: str = "nothing", unsent: str = "nothing") -> None:
        self.unread, self.silent, self.unsent, self.asked, self.closed = unread, silent, unsent, [], 0

    @property
    def fingerprint(self) -> str:
        return f"reader {self.unread}"

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in reversed(questions):  # answers come in any order
            self.asked.append(question.text)
            yes = answer(ATOMS[question.text], read(decode(question.images[0]), World()))
            if self.unsent in question.text:
                yield Answer(question.item_id, (0.5, 0.5), 0.0, reason="no connection", sent=False)
            elif self.unread in question.text:
                yield Answer(question.item_id, (0.5, 0.5), 0.0, reason="busy")
            elif self.silent not in question.text:
                yield Answer(question.item_id, (yes, 1 - yes))

    def verify(self) -> None:
        raise ValueError("The key is wrong.")

    def close(self) -> None:
        self.closed += 1


class First:
    """Prefers the first image, whatever it shows."""

    fingerprint = "first"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            self.asked.append(pair.item_id)
            yield Look(pair.item_id, 0.9)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        raise AssertionError("single images are judged by questions")

    def close(self) -> None:
        raise OSError("cannot be closed")


def png(shown: str, seed: int = 0) -> bytes:
    return to_png(draw(parse(shown), 32, 32, seed))


def test_it_is_a_judge_and_says_what_is_missing() -> None:
    judge = judge_of_scenes(Reader())
    assert isinstance(judge, Judge) and isinstance(judge, AtomJudge)
    items = [
        ImageAndPrompt("right", png("a red circle and a blue square"), "a red circle and a blue square"),
        ImageAndPrompt("swapped", png("a blue circle and a red square"), "a red circle and a blue square"),
        ImageAndPrompt("place", png("a red circle below a blue square"), "a red circle above a blue square"),
    ]
    looks = {look.item_id: look for look in judge.check(items)}
    assert [reading_of(looks[name]) for name in ("right", "swapped", "place")] == ["shows", "lacks", "lacks"]
    assert "colour" in looks["swapped"].reason
    assert [missing(look) for look in judge.ask_atoms(items)][2] == ("relation",)


def test_many_images_are_each_judged_under_their_own_name() -> None:
    shown = [PROMPTS[place % 3] for place in range(70)]
    items = [ImageAndPrompt(str(place), png(name), PROMPTS[place % 2]) for place, name in enumerate(shown)]
    looks = list(judge_of_scenes(Reader()).check(items))
    assert [look.item_id for look in looks] == [item.item_id for item in items]
    assert [look.probability >= 0.5 for look in looks] == [
        name == item.prompt for name, item in zip(shown, items, strict=True)
    ]


def test_unread_answers_count_as_unread() -> None:
    item = ImageAndPrompt("a", png("a red circle"), "a red circle")
    (some,) = judge_of_scenes(Reader(unread="number of objects")).check([item])
    assert reading_of(some) == "shows" and some.covered_mass == 0.75
    (none,) = judge_of_scenes(Reader(unread="?")).check([item])
    assert reading_of(none) == "unreadable" and none.reason == "busy"
    (silent,) = judge_of_scenes(Reader(silent="?")).check([item])
    assert reading_of(silent) == "unreadable"


def test_what_was_read_is_not_asked_again_and_what_was_not_is() -> None:
    reader = Reader()
    judge = judge_of_scenes(reader)
    first, second = png("a red circle"), png("three green stars")
    list(judge.check([ImageAndPrompt("a", first, "a red circle")]))
    pairs = [OrderedPair("1", first, second, "a red circle"), OrderedPair("2", second, first, "a red circle")]
    list(judge.look(pairs))
    assert len(reader.asked) == 8, "four questions about each of two images"
    reader.unread = "?"
    unread = ImageAndPrompt("b", png("a red circle", 5), "a red circle")
    assert [look.covered_mass for _ in range(2) for look in judge.check([unread])] == [0.0, 0.0]
    assert len(reader.asked) == 16


def preferred(judge: FaithfulnessJudge, first: str, second: str, prompt: str = "a red circle") -> str:
    images = png(first, 1), png(second, 2)
    looks = list(judge.look([OrderedPair("1", *images, prompt), OrderedPair("2", *reversed(images), prompt)]))
    return preference_of(*looks)


def test_an_unfaithful_image_never_wins() -> None:
    for judge in (judge_of_scenes(Reader()), judge_of_scenes(Reader(), First())):
        # the teacher's image misses less than the student's, and still nothing is to be learned from it
        assert preferred(judge, "three green stars", "a blue circle") == "tie"
        assert preferred(judge, "a red circle", "a blue circle") == "first"
        assert preferred(judge, "a blue circle", "a red circle") == "second"


def test_among_faithful_images_the_judge_of_pairs_decides() -> None:
    first = First()
    assert preferred(judge_of_scenes(Reader(), first), "a red circle", "a red circle") == "tie", "it prefers a place"
    assert first.asked == ["1", "2"]
    assert preferred(judge_of_scenes(Reader(), first), "a blue circle", "a red circle") == "second"
    assert first.asked == ["1", "2"], "it is not asked where one image is wrong"


class Both(Reader):
    """Answers questions and compares images: one model for both."""

    look = First.look
    check = First.check

    def estimated_bytes(self) -> int:
        return 10


def test_one_model_can_do_both() -> None:
    model = Both()
    judge = judge_of_scenes(model, ask_pairs=True)
    assert preferred(judge, "a red circle", "a red circle") == "tie" and model.asked[-2:] == ["1", "2"]
    assert preferred(judge, "three green stars", "a blue circle") == "tie" and model.asked[-2:] != ["1", "2"]
    assert judge.fingerprint != judge_of_scenes(model).fingerprint and judge.estimated_bytes() == 10


def test_the_price_of_a_look_covers_the_comparison_of_the_pair() -> None:
    class Priced(Both):
        def price_usd(self) -> float:
            return 0.001

    questions = 0.001 * 2 * MAX_QUESTIONS
    assert judge_of_scenes(Priced()).price_usd() == pytest.approx(questions)
    assert judge_of_scenes(Priced(), ask_pairs=True).price_usd() == pytest.approx(questions + 0.001)


def test_pairs_are_compared_by_one_judge() -> None:
    with pytest.raises(ValueError, match="beside a judge of pairs"):
        judge_of_scenes(Both(), First(), ask_pairs=True)
    with pytest.raises(ValueError, match="of Reader, which is no judge"):
        judge_of_scenes(Reader(), ask_pairs=True)


probabilities = st.floats(0.0, 1.0)


@settings(max_examples=40)
@given(probabilities, probabilities, st.floats(0.0, 1.0))
def test_swapping_two_images_mirrors_the_look(one: float, other: float, equal_within: float) -> None:
    looks = Look("a", one), Look("b", other)
    forth, back = compared(*looks, equal_within, "1"), compared(*reversed(looks), equal_within, "2")
    assert forth.probability == pytest.approx(1 - back.probability)
    if max(one, other) < 0.5:
        assert forth.probability == 0.5
    if min(one, other) < 0.5 <= max(one, other):
        assert (forth.probability > 0.5) == (one > other)


def test_an_image_that_cannot_be_judged_makes_the_pair_unreadable() -> None:
    look = compared(Look("a", 0.9), Look("b", 0.5, 0.0, "refused"), 0.05, "1")
    assert preference_of(look, None) == "unreadable" and look.reason == "refused"


@pytest.mark.parametrize(
    ("reader", "sent", "cut_off"),
    [
        (Reader(unread="?"), True, False),
        (Reader(unsent="?"), False, False),
        (Reader(unsent="circle", unread="?"), True, True),
    ],
)
def test_an_outage_of_the_model_is_one_of_the_look(reader: Reader, sent: bool, cut_off: bool) -> None:
    image = png("a red circle")
    (single,) = judge_of_scenes(reader).check([ImageAndPrompt("a", image, "a red circle")])
    (pair,) = judge_of_scenes(reader).look([OrderedPair("a", image, png("three green stars"), "a red circle")])
    for look in (single, pair):
        assert (look.covered_mass, look.sent, look.cut_off) == (0.0, sent, cut_off)


def test_a_pair_of_which_the_images_were_judged_was_sent() -> None:
    class Away(First):
        def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
            yield from (Look(pair.item_id, 0.5, 0.0, "no connection", sent=False) for pair in pairs)

    pair = OrderedPair("1", png("a red circle"), png("a red circle", 1), "a red circle")
    (look,) = judge_of_scenes(Reader(), Away()).look([pair])
    assert look.sent and look.cut_off


def test_a_hosted_part_makes_it_a_hosted_judge() -> None:
    hosted = Reader()
    hosted.requests_in_flight = 40
    assert judge_of_scenes(hosted).requests_in_flight == 40
    assert judge_of_scenes(Reader(), First()).requests_in_flight == 0


def test_every_part_that_changes_answers_is_named() -> None:
    judges = [
        judge_of_scenes(Reader()), judge_of_scenes(Reader(unread="x")), judge_of_scenes(Reader(), First()),
        judge_of_scenes(Reader(), expected_error=0.1), judge_of_scenes(Reader(), equal_within=0.1),
    ]  # fmt: skip
    assert len({judge.fingerprint for judge in judges}) == len(judges)


def test_a_part_that_cannot_work_is_told_before_anything_is_asked() -> None:
    with pytest.raises(ValueError, match="The key is wrong"):
        judge_of_scenes(Reader()).verify()


def test_all_parts_are_closed_even_if_one_cannot_be() -> None:
    reader = Reader()
    with pytest.raises(OSError, match="cannot be closed"):
        judge_of_scenes(reader, First()).close()
    assert reader.closed == 1


@pytest.mark.parametrize("wrong", [{"expected_error": 0.5}, {"min_readable_share": 0.0}, {"equal_within": -0.1}])
def test_shares_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*Allowed"):
        judge_of_scenes(Reader(), **wrong)
