"""Buying from several teachers: who is asked, what a re-test costs, what unfaithful images and kills lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.buying.buy import Purchases, buy, is_tested_by_all
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import ImageReply, ImageRequest, JudgeAccuracy, Prompt, RoundInfo
from evolvedirector.store.ledger import Duel, Ledger, TeacherResult
from tests import toys


class MemoryBlobs(dict):
    def put_many(self, images: Sequence[bytes]) -> list[str]:
        names = [sha256(image).hexdigest() for image in images]
        self.update(zip(names, images, strict=True))
        return names

    def get(self, name: str) -> bytes:  # type: ignore[override]
        return self[name]


class Drawing(toys.ToyTeacher):
    """Draws `off` beside the tone asked for, or refuses, or fails."""

    def __init__(self, name: str, off: int = 0, status: str = "image", cost_usd: float = 0.0) -> None:
        super().__init__(name, cost_usd=cost_usd)
        self.off, self.status = off, status

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.asked.append(request.prompt)
            drawn = (toys.tone_of(request.prompt) + self.off) % 256
            image = toys.flat_png(drawn) if self.status == "image" else None
            yield ImageReply(request.request_id, self.status, image, "", self.cost_usd)  # type: ignore[arg-type]


class Shop:
    """What buying needs, in memory."""

    def __init__(self, teachers: Sequence[Drawing], judge: Any = None, budget: Budget | None = None) -> None:
        self.teachers = {teacher.name: teacher for teacher in teachers}
        self.judge = judge or toys.ToyJudge()
        self.ledger, self.blobs = Ledger(Path(":memory:")), MemoryBlobs()
        self.budget = budget or Budget()
        self.judge_error = 0.0
        self.ledger.rounds.record_revision("base", 1, None, "import")

    def __del__(self) -> None:
        self.ledger.close()

    def context(self, **info: Any) -> Round:
        student, writer = StudentPart(lambda requests: []), toys.ToyWriter()
        parts = RoundParts(
            SimpleNamespace(ledger=self.ledger, blobs=self.blobs),  # type: ignore[arg-type]
            LocalExecutor(tenants_of(student, self.teachers, self.judge, writer), unit=2),
            student,
            self.teachers,
            self.judge,
            writer,
            EvolveDirectorPolicy(),
            self.budget,
            8,
        )
        self.last = Round(
            parts,
            replace(RoundInfo("r1", 0, None, 0, 10, "base", judge=JudgeAccuracy.of_error(self.judge_error)), **info),
        )
        return self.last

    def buy(self, prompts: Sequence[Prompt], **options: Any) -> Purchases:
        self.ledger.prompts.add(prompts)
        return buy(self.context(), prompts, options.pop("favourites", {}), **options)

    def asked(self) -> dict[str, int]:
        return {name: len(teacher.asked) for name, teacher in self.teachers.items()}

    def past(self, results: Sequence[TeacherResult] = (), duels: Sequence[Duel] = ()) -> None:
        self.ledger.rounds.record_revision("base", 1, None, "import")
        self.ledger.rounds.record_revision("next", 2, "base", "r0")
        self.ledger.calls.add_results("r0", results)
        self.ledger.looks.add_duels("r0", duels)


def tones(count: int, skill: str = "tone") -> list[Prompt]:
    return [Prompt.create(f"tone {20 * (place + 1)}", skill=skill) for place in range(count)]


def makers(purchases: Purchases) -> set[str]:
    return {sample.teacher for sample in purchases.samples}


def test_a_retested_prompt_is_drawn_by_all_and_the_best_image_is_kept() -> None:
    shop = Shop([Drawing("far", 9), Drawing("near", 2), Drawing("farther", 30)])
    bought = shop.buy(tones(6), test_all_share=1.0, check_teacher=True)
    assert shop.asked() == {"far": 6, "near": 6, "farther": 6}
    assert len(bought.samples) == 6 and makers(bought) == {"near"}
    duels = shop.ledger.looks.duels()
    assert len(duels) == 6  # the unfaithful third never meets the others
    assert {frozenset((d.first_teacher, d.second_teacher)) for d in duels} == {frozenset(("far", "near"))}


def test_a_share_of_the_prompts_is_retested_the_same_ones_every_time() -> None:
    prompts = [Prompt.create(f"tone {n}") for n in range(256)]
    tested = {p.id for p in prompts if is_tested_by_all(p, 0, 0.3)}
    assert 0.2 < len(tested) / 256 < 0.4
    assert tested == {p.id for p in reversed(prompts) if is_tested_by_all(p, 0, 0.3)}
    assert tested <= {p.id for p in prompts if is_tested_by_all(p, 0, 0.5)}
    assert not any(is_tested_by_all(p, 0, 0.0) for p in prompts)
    assert all(is_tested_by_all(p, 0, 1.0) for p in prompts)


def test_one_teacher_is_never_retested() -> None:
    shop = Shop([Drawing("only")])
    assert len(shop.buy(tones(4), test_all_share=1.0).samples) == 4
    assert shop.asked() == {"only": 4} and shop.judge.asked == 0


def test_the_limit_goes_to_the_most_urgent() -> None:
    shop = Shop([Drawing("a"), Drawing("b", 1), Drawing("c", 2)])
    prompts = tones(6)
    bought = shop.buy(prompts, test_all_share=1.0, limit=7)
    assert [sample.prompt for sample in bought.samples] == prompts[:3]  # 3 + 3 + 1
    assert bought.unbought == tuple(prompts[3:]) and not bought.failed
    assert sum(shop.asked().values()) == 7
    again = shop.buy(prompts, test_all_share=1.0, limit=7)
    assert again == bought and sum(shop.asked().values()) == 7


def test_a_spent_teacher_is_passed_over_without_a_mark() -> None:
    shop = Shop([Drawing("a"), Drawing("b")], budget=Budget(teacher_budgets={"a": 2}))
    prompts = tones(5)
    bought = shop.buy(prompts, favourites={prompt.id: "a" for prompt in prompts})
    assert [sample.teacher for sample in bought.samples] == ["a", "a", "b", "b", "b"]
    assert shop.asked() == {"a": 2, "b": 3}
    assert not shop.last.figures.no_image
    poor = Shop([Drawing("a"), Drawing("b", status="refusal")], budget=Budget(teacher_budgets={"a": 0}))
    left = poor.buy(tones(2))
    assert len(left.unbought) == 2 and not left.failed  # `a` could still draw them


def test_a_budget_for_nobody_is_refused() -> None:
    shop = Shop([Drawing("a")], budget=Budget(teacher_budgets={"b": 2}))
    with pytest.raises(ValueError, match=r"teacher_budgets names 'b'.*Allowed: a"):
        shop.buy(tones(1))
    with pytest.raises(ValueError, match=r"test_all_share is 1\.5\. Allowed: 0 to 1"):
        Shop([Drawing("a")]).buy(tones(1), test_all_share=1.5)


def test_the_listed_price_is_charged_where_a_reply_carries_none() -> None:
    shop = Shop([Drawing("a")], budget=Budget(budget_cost_usd=1.0, prices_usd={"a": 0.3}))
    assert len(shop.buy(tones(5)).samples) == 3
    assert shop.ledger.spend().cost_usd == pytest.approx(0.9)
    told = Shop([Drawing("a", cost_usd=0.5)], budget=Budget(prices_usd={"a": 0.3}))
    told.buy(tones(2))
    assert told.ledger.spend().cost_usd == pytest.approx(1.0)
    refused = Shop([Drawing("a", status="refusal")], budget=Budget(prices_usd={"a": 0.3}))
    refused.buy(tones(2))
    assert refused.ledger.spend().cost_usd == 0.0


@pytest.mark.parametrize(("status", "gone"), [("refusal", True), ("failure", False)])
def test_nobody_draws(status: str, gone: bool) -> None:
    shop = Shop([Drawing(name, status=status) for name in "abc"])
    bought = shop.buy(tones(3), test_all_share=0.5, check_teacher=True)
    assert not bought.samples
    assert len(bought.failed if gone else bought.unbought) == 3
    assert shop.asked() == {"a": 3, "b": 3, "c": 3}
    assert {item.result for item in shop.ledger.calls.results(["r1"])} == {status}


def test_a_failed_call_is_booked_to_each_round_that_tries_it() -> None:
    teacher = Drawing("one", status="failure", cost_usd=0.5)
    shop = Shop([teacher], budget=Budget(budget_teacher_calls=10, budget_cost_usd=10.0, teacher_calls_per_round=3))
    shop.buy(tones(3))
    context = shop.context(round_id="r2", index=1)
    opening = context.opening_allowance()
    buy(context, tones(5), {})
    assert len(teacher.asked) == 6
    assert shop.ledger.spend("r1") == shop.ledger.spend("r2")
    assert context.opening_allowance() == opening
    teacher.status = "image"
    assert len(buy(shop.context(round_id="r3", index=2), tones(5), {}).samples) == 3
    assert [shop.ledger.spend(name).teacher_calls for name in ("r1", "r2", "r3")] == [3, 3, 3]


@pytest.mark.parametrize("ending", ["failure", "kill", "damaged image"])
def test_a_try_is_repeated_under_its_name_and_a_new_one_has_a_new_name(ending: str) -> None:
    keys: list[str] = []

    class Ending(Drawing):
        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
            keys.extend(request.idempotency_key for request in requests)
            for reply in super().generate(requests):
                if len(keys) < 3 and ending == "kill":
                    raise RuntimeError("no power")
                status = "failure" if len(keys) < 3 and ending == "failure" else "image"
                damaged = len(keys) < 3 and ending == "damaged image"
                yield replace(reply, status=status, image=b"<html>" if damaged else reply.image)

    shop = Shop([Ending("one")])
    for _ in range(2):
        with suppress(RuntimeError):
            assert not shop.buy(tones(1)).samples
    assert len(shop.buy(tones(1)).samples) == 1
    tails = [key.removeprefix(keys[0]) for key in keys]
    assert tails == (["", "-1", "-2"] if ending == "damaged image" else ["", "", ""])


class ClosedAccount(Drawing):
    """Says of every request that it never left: no key, no credit."""

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.asked.append(request.prompt)
            yield ImageReply(request.request_id, "failure", reason="denied: no credit", sent=False)


def test_a_closed_account_uses_up_no_budget_and_passes_the_prompts_on() -> None:
    shop = Shop([ClosedAccount("closed"), Drawing("open")], budget=Budget(budget_teacher_calls=4))
    with pytest.warns(UserWarning, match="The teacher closed draws nothing at present: denied: no credit"):
        bought = shop.buy(tones(4))
    assert makers(bought) == {"open"} and len(bought.samples) == 4
    assert shop.ledger.calls.by_teacher() == {"open": 4}


def test_what_was_sent_before_the_account_closed_stays_counted() -> None:
    teacher = Drawing("one", status="failure")
    shop = Shop([teacher])
    shop.buy(tones(3))
    shop.teachers["one"] = ClosedAccount("one")
    with pytest.warns(UserWarning, match="no credit"):
        assert shop.buy(tones(5)).samples == ()
    assert shop.ledger.spend().teacher_calls == 3
    shop.teachers["one"] = Drawing("one")
    assert len(shop.buy(tones(5)).samples) == 5
    assert shop.ledger.spend().teacher_calls == 3 + 5


def test_a_part_that_keeps_many_requests_in_flight_gets_them_at_once() -> None:
    sizes: list[int] = []

    class Remote(Drawing):
        requests_in_flight = 5

        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
            sizes.append(len(requests))
            return super().generate(requests)

    assert len(Shop([Remote("remote")]).buy(tones(12)).samples) == 12
    assert sizes == [5, 5, 2]


def test_two_unfaithful_images_retire_a_prompt_and_both_are_recorded() -> None:
    shop = Shop([Drawing("a", 40), Drawing("b", 50), Drawing("c")])
    prompts = tones(3)
    bought = shop.buy(prompts, favourites={prompt.id: "a" for prompt in prompts}, check_teacher=True)
    assert bought.failed == tuple(prompts) and shop.asked() == {"a": 3, "b": 3, "c": 0}
    evidence = shop.ledger.looks.evidence("r1")
    assert Counter(item.prompt_id for item in evidence) == {prompt.id: 2 for prompt in prompts}
    retested = Shop([Drawing("a", 40), Drawing("b", 50), Drawing("c")])
    assert makers(retested.buy(prompts, test_all_share=1.0, check_teacher=True)) == {"c"}


def test_the_standing_best_in_the_skill_is_asked_first_and_only_the_past_counts() -> None:
    shop = Shop([Drawing("a"), Drawing("b")])
    tone, tint = tones(5), [replace(prompt, skill="tint", id=f"tint{prompt.id}") for prompt in tones(5)]
    shop.ledger.prompts.add([*tone, *tint])
    shop.past(duels=[Duel(p.id, "a", "b", "x", "y", v) for p, v in ((tone[0], "second"), (tint[0], "first"))])
    shop.ledger.looks.add_duels("r1", [Duel(p.id, "a", "b", "x", "y", "first") for p in tone])  # this round's own
    shop.ledger.looks.add_duels("fork", [Duel(p.id, "a", "b", "x", "y", "first") for p in tone])  # not in the ancestry
    context = shop.context(revision_sha="next")
    first = buy(context, [*tone[1:], *tint[1:]], {prompt.id: "a" for prompt in tone})
    by_skill = {sample.prompt.skill: set() for sample in first.samples}
    for sample in first.samples:
        by_skill[sample.prompt.skill].add(sample.teacher)
    assert by_skill == {"tone": {"b"}, "tint": {"a"}}


def test_a_wrong_judge_does_not_reject_what_a_good_teacher_draws() -> None:
    class Unkind(toys.ToyJudge):
        def check(self, items):
            for item in items:
                yield toys.Look(item.item_id, 0.1)

    shop = Shop([Drawing("a"), Drawing("b")], judge=Unkind())
    prompts = tones(4)
    shop.ledger.prompts.add(prompts)
    known = [Prompt.create(f"tone {n}", skill="tone") for n in range(201, 241)]
    shop.ledger.prompts.add(known)
    shop.past([TeacherResult(p.id, "a", "unfaithful" if n % 10 < 3 else "faithful") for n, p in enumerate(known)])
    options = {"favourites": {prompt.id: "a" for prompt in prompts}, "check_teacher": True}
    kept = buy(shop.context(revision_sha="next", judge=JudgeAccuracy.of_error(0.3)), prompts, **options)
    assert len(kept.samples) == 4
    exact = buy(shop.context(revision_sha="next", round_id="r2", judge=JudgeAccuracy()), prompts, **options)
    assert len(exact.failed) == 4


def test_a_bad_teacher_is_told_from_a_judge_that_errs_within_its_first_round() -> None:
    shop = Shop([Drawing("bad", 60), Drawing("good")])
    shop.judge_error = 0.2
    prompts = [Prompt.create(f"tone {n}", skill="tone") for n in range(0, 120, 6)]
    bought = shop.buy(prompts, favourites={prompt.id: "bad" for prompt in prompts}, check_teacher=True)
    assert len(bought.samples) == 20 and makers(bought) == {"good"}


def test_a_purchase_killed_in_the_knockout_asks_no_teacher_again() -> None:
    class Tripping(toys.ToyJudge):
        left = 10**9

        def look(self, pairs):
            for look in super().look(pairs):
                if self.left == 0:
                    raise RuntimeError("no power")
                self.left -= 1
                yield look

    reference = Shop([Drawing(name, off) for name, off in (("a", 5), ("b", 3), ("c", 1))])
    expected = reference.buy(tones(4), test_all_share=1.0, check_teacher=True)
    for survives in range(0, 16, 3):
        shop = Shop([Drawing(name, off) for name, off in (("a", 5), ("b", 3), ("c", 1))], judge=Tripping())
        shop.judge.left = survives
        with pytest.raises(RuntimeError, match="no power"):
            shop.buy(tones(4), test_all_share=1.0, check_teacher=True)
        shop.judge.left = 10**9
        assert shop.buy(tones(4), test_all_share=1.0, check_teacher=True) == expected
        assert shop.asked() == {"a": 4, "b": 4, "c": 4}
        assert sorted(map(repr, shop.ledger.looks.duels())) == sorted(map(repr, reference.ledger.looks.duels()))
        spend = shop.ledger.spend()
        assert spend.teacher_calls == 12 and spend.judge_calls - spend.lost_calls == 12 + 16


KINDS = {"good": (0, "image"), "close": (4, "image"), "wrong": (77, "image"), "shy": (0, "refusal")}
optional_limit = st.none() | st.integers(0, 14)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([*KINDS, "down"]), min_size=1, max_size=4),
    count=st.integers(0, 6),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    limit=optional_limit,
    total=optional_limit,
    per_lineage=st.none() | st.integers(0, 3),
    own=st.dictionaries(st.integers(0, 3), st.integers(0, 5)),
    stop_after=st.integers(0, 25),
    judge_error=st.sampled_from([0.0, 0.0, 0.2]),
)
def test_no_budget_is_exceeded_and_a_stopped_purchase_ends_as_an_unbroken_one(
    kinds: list[str],
    count: int,
    share: float,
    limit: int | None,
    total: int | None,
    per_lineage: int | None,
    own: dict[int, int],
    stop_after: int,
    judge_error: float,
) -> None:
    def shop() -> Shop:
        known = KINDS | {"down": (0, "failure")}
        teachers = [Drawing(f"t{place}", *known[kind]) for place, kind in enumerate(kinds)]
        own_budgets = {f"t{place}": calls for place, calls in own.items() if place < len(kinds)}
        return Shop(
            teachers,
            budget=Budget(
                budget_teacher_calls=total, teacher_calls_per_lineage=per_lineage, teacher_budgets=own_budgets
            ),
        )

    options = {"test_all_share": share, "limit": limit, "check_teacher": True}
    unbroken, stopped = shop(), shop()
    unbroken.judge_error = stopped.judge_error = judge_error
    expected = unbroken.buy(tones(count), **options)
    left = [stop_after]

    def stop() -> str | None:
        left[0] -= 1
        return "a test" if left[0] < 0 else None

    stopped.ledger.prompts.add(tones(count))
    with suppress(RoundInterrupted):
        buy(replace(stopped.context(), watch=RoundWatch(stop)), tones(count), {}, **options)
    finished = stopped.buy(tones(count), **options)
    for each in (unbroken, stopped):
        asked = each.asked()
        assert sum(asked.values()) == each.ledger.spend("r1").teacher_calls
        assert sum(asked.values()) <= min(limit for limit in (limit, total, 10**6) if limit is not None)
        assert all(asked[name] <= calls for name, calls in (each.budget.teacher_budgets or {}).items())
        assert all(
            calls <= (per_lineage if per_lineage is not None else 4 * 2)
            for calls in each.ledger.calls.by_lineage().values()
        )
    for sample in (*expected.samples, *finished.samples):  # an exact judge: nothing unfaithful is trained on
        assert judge_error or kinds[int(sample.teacher[1:])] in ("good", "close")
    if "down" not in kinds:  # what failed may be asked again
        assert finished == expected
        assert stopped.asked() == unbroken.asked()


class Moody(Drawing):
    """Does with each request what its list says next, then draws."""

    def __init__(self, name: str, moods: list[str]) -> None:
        super().__init__(name)
        self.moods = moods

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            mood = self.moods.pop(0) if self.moods else "image"
            if mood == "cut":
                raise RuntimeError("no power")
            if mood == "unsent":
                yield ImageReply(request.request_id, "failure", reason="no way there", sent=False)
            elif mood != "silent":
                image = toys.flat_png(toys.tone_of(request.prompt)) if mood == "image" else None
                yield ImageReply(request.request_id, mood, image)  # type: ignore[arg-type]


moods = st.sampled_from(["image", "failure", "refusal", "cut", "silent", "unsent"])


@pytest.mark.filterwarnings("ignore:The teacher t")
@settings(max_examples=30, deadline=None)
@example(moods=[[], ["failure"]], cap=2, rounds=["r1", "r1", "r1"], share=0.0, children=0, moves=True)
@given(
    moods=st.lists(st.lists(moods, max_size=8), min_size=1, max_size=3),
    cap=st.integers(0, 4),
    rounds=st.lists(st.sampled_from(["r1", "r2", "r3"]), min_size=1, max_size=5),
    share=st.sampled_from([0.0, 1.0]),
    children=st.integers(0, 2),
    moves=st.booleans(),
)
def test_no_retry_passes_the_calls_of_a_lineage(
    moods: list[list[str]], cap: int, rounds: list[str], share: float, children: int, moves: bool
) -> None:
    """What failed, was cut off or never sent is asked again; a text may be written anew in another lineage."""
    teachers = [Moody(f"t{place}", list(each)) for place, each in enumerate(moods)]
    shop = Shop(teachers, budget=Budget(teacher_calls_per_lineage=cap))
    founders = tones(2)
    prompts = founders + [Prompt.create(f"tone {200 + place}", parent=founders[0]) for place in range(children)]
    shop.ledger.prompts.add(prompts)
    for turn, round_id in enumerate(rounds):
        if moves and turn:
            prompts = [replace(prompt, lineage_id=founders[turn % 2].lineage_id) for prompt in prompts]
        with suppress(RuntimeError):
            buy(shop.context(round_id=round_id), prompts, {}, test_all_share=share)
        assert all(calls <= cap for calls in shop.ledger.calls.by_lineage().values())
