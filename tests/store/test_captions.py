"""One rule for captions: what is read, what is refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.store import StoreError
from evolvedirector.store.captions import MAX_CAPTION_BYTES, CaptionFiles, caption_beside, caption_of


@pytest.mark.parametrize(
    ("txt", "about", "caption"),
    [
        (b"\xef\xbb\xbfa red fox\r\n", None, ("a red fox", "unlabelled")),
        ("a\u2028red\u0085\tfox\n\non grass".encode(), None, ("a red fox on grass", "unlabelled")),
        (b"from text", b'{"caption": "from json", "skill": " a  skill "}', ("from text", "a skill")),
        (b" \n", b'{"caption": "from json"}', ("from json", "unlabelled")),
        (b"\xef\xbb\xbf", b'\xef\xbb\xbf{"text": "from json"}', ("from json", "unlabelled")),
        (None, b'{"prompt": null, "text": " ", "caption": "third", "skill": null}', ("third", "unlabelled")),
        (None, b'{"prompt": ["a"], "caption": "a text", "skill": ""}', ("a text", "unlabelled")),
        (None, rb'{"prompt": "caf\u00e9 \ud83d\ude00", "size": NaN}', ("café 😀", "unlabelled")),
        (b"boxes", b"[1, 2]", ("boxes", "unlabelled")),
        (b"boxes", b"null", ("boxes", "unlabelled")),
    ],
)
def test_what_is_a_caption(txt: bytes | None, about: bytes | None, caption: tuple[str, str]) -> None:
    assert caption_of(txt, about) == caption


@pytest.mark.parametrize(
    ("txt", "about", "reason"),
    [
        (None, None, "no caption"),
        (b"", None, "its txt is empty"),
        ("café".encode("latin-1"), None, "its txt cannot be read: byte 0xE9"),
        ("a tree".encode("utf-16"), b'{"caption": "fine"}', "its txt cannot be read: it is UTF-16"),
        ("a tree".encode("utf-16-le"), None, "UTF-16"),
        ("a tree".encode("utf-32"), None, "UTF-32"),
        (b"\xed\xa0\xbd", None, "its txt cannot be read"),
        (b"x" * (MAX_CAPTION_BYTES + 1), None, "at most 1048576"),
        (None, '{"caption": "a"}'.encode("utf-16"), "its json cannot be read: it is UTF-16"),
        (None, b'{"caption": ["a dog", "a puppy"]}', r"`caption` is \['a dog', 'a puppy'\]"),
        (None, b'{"caption": NaN}', "`caption` is nan"),
        (None, b'{"caption": 7}', "`caption` is 7"),
        (None, b'{"caption": true}', "`caption` is True"),
        (None, b'{"caption": null}', "no text under"),
        (None, b'{"caption": {"en": "a dog"}}', "`caption` is {'en'"),
        (None, b'{"title": "a dog"}', "no text under prompt, text, caption$"),
        (None, b'"a dog"', "no text under"),
        (b"fine", b'{"caption": ', "its json cannot be read"),
        (b"fine", b"[" * 100_000, "nested too deeply"),
        (b"fine", b"1" * 5000, "its json cannot be read"),
        (b"fine", b'{"skill": ["a", "b"]}', r"the skill \['a', 'b'\] is no text"),
        (b"fine", b'{"skill": 7}', "is no text"),
        (b"fine", b'{"skill": false}', "is no text"),
    ],
)
def test_what_is_refused_and_why(txt: bytes | None, about: bytes | None, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as caught:
        caption_of(txt, about)
    assert len(str(caught.value)) < 200


def test_captions_are_found_beside_pictures(tmp_path: Path) -> None:
    for name in ("a.v1.txt", "B.TXT", "c.json", "d.caption", "a.v1.PNG", "B.png", "c.png", "d.png"):
        (tmp_path / name).write_bytes(b'{"text": "words"}')
    files = CaptionFiles()
    found = {name: files.beside(tmp_path / name) for name in ("a.v1.PNG", "B.png", "c.png")}
    assert found == {
        "a.v1.PNG": (tmp_path / "a.v1.txt", None),
        "B.png": (tmp_path / "B.TXT", None),
        "c.png": (None, tmp_path / "c.json"),
    }
    assert caption_beside(found["c.png"]).text == "words"
    with pytest.raises(StoreError, match=r"write one into 'd\.txt' beside it \('d\.caption' is not read\)"):
        files.beside(tmp_path / "d.png")
