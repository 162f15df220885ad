"""A sample is a prompt and named files: its key, its roles and its variants."""

from __future__ import annotations

import pytest

from evolvedirector.records import FileRef, Prompt, PromptEntry, Sample, check_role

PROMPT = Prompt.create("a red circle")
IMAGE = "ab" * 32
MASK = FileRef.of(b"mask", "image/png", 8, 8)


def test_a_picture_alone_has_the_key_it_always_had() -> None:
    sample = Sample.create(PROMPT, IMAGE, "toy")
    assert sample.key == f"{PROMPT.id}-{IMAGE[:12]}"
    assert sample.roles == ("image",)
    assert sample == Sample(sample.key, PROMPT, IMAGE, "toy")


def test_a_key_names_all_files_and_the_variant() -> None:
    other_mask = FileRef.of(b"other", "image/png", 8, 8)
    samples = [
        Sample.create(PROMPT, IMAGE, "toy"),
        Sample.create(PROMPT, IMAGE, "toy", {"mask": MASK}),
        Sample.create(PROMPT, IMAGE, "toy", {"mask": other_mask}),
        Sample.create(PROMPT, IMAGE, "toy", {"source": MASK}),
        Sample.create(PROMPT, IMAGE, "toy", variant="second"),
        Sample.create(PROMPT, IMAGE, "toy", variant="third"),
    ]
    assert len({sample.key for sample in samples}) == len(samples)
    again = Sample.create(PROMPT, IMAGE, "someone else", {"mask": FileRef.of(b"mask", "image/png", 8, 8)})
    assert again.key == samples[1].key
    assert again.roles == ("image", "mask") and again.files["mask"].content is None
    assert hash(again) is not None


def test_an_entry_lists_its_first_sample_first() -> None:
    first, second = Sample.create(PROMPT, IMAGE, "toy"), Sample.create(PROMPT, IMAGE, "toy", variant="second")
    assert PromptEntry(PROMPT, "candidate").samples == ()
    assert PromptEntry(PROMPT, "live", first).samples == (first,)
    assert PromptEntry(PROMPT, "live", first, (second,)).samples == (first, second)


@pytest.mark.parametrize("role", ["image", "", "Mask", "a.b", "../x", "2nd", "a" * 29, "prompt", "key", "mask\n"])
def test_a_role_that_cannot_be_a_name_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="Allowed are"):
        check_role(role)
    with pytest.raises(ValueError, match="Allowed are"):
        Sample.create(PROMPT, IMAGE, "toy", {role: MASK})
