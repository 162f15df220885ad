"""Two revisions compared: states, samples, weights."""

from pathlib import Path

from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore
from evolvedirector.store.difference import difference
from tests.store.sample_files import kept, thing


def test_what_changed_is_told_both_ways(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        one, two = kept(store.blobs, 0), kept(store.blobs, 1)
        weights = {"skill0": 1.0, "skill1": 2.0}
        first = store.publish(None, "import", RevisionChange(samples=(one, two), skill_weights=weights))
        other = kept(store.blobs, 0, 5)  # another image of the same prompt, in its place
        change = RevisionChange(
            prompts=(thing(2),),
            samples=(other,),
            states={two.prompt.id: "mastered"},
            skill_weights={"skill0": 1.0},
            replay_share=0.25,
            sample_weights={two.key: 3.0},
        )
        states = store.state(first), store.state(store.publish(first, "round1", change))
    found = difference(*states)
    assert found.states == {two.prompt.id: ("live", "mastered"), thing(2).id: (None, "candidate")}
    assert found.added == (other.key,) and found.removed == (one.key,)
    assert found.skill_weights == {"skill1": (2.0, None)} and found.replay_share == (0.0, 0.25)
    assert found.reweighed == 1 and not found.is_empty
    back = difference(*reversed(states))
    assert back.states[thing(2).id] == ("candidate", None) and back.added == (one.key,)
    assert difference(states[0], states[0]).is_empty
