import os
from pathlib import Path

import pytest

from evolvedirector.errors import UserError
from evolvedirector.store import StoreError
from evolvedirector.store.paths import matching_files, user_path

FILES = (
    "p/a.png p/sub/b.png p/.hidden/c.png cards [v2]/a.png|cards v/z.png|set {a,b}/x-000.tar|set {a,b}/x-001.tar"
    "|50% #1 {a,b} $x/q.png|caf\xe9 \U0001f600/e.png"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with difficult names, whose home is `home`."""
    for name in FILES.replace("png p", "png|p").replace("png cards", "png|cards").split("|"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "h.png").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("p", "p/a.png p/sub/b.png"),
        ("p/**", "p/a.png p/sub/b.png"),
        ("p/*", "p/a.png"),
        ("p/.hidden/*", "p/.hidden/c.png"),
        ("**/[ab].png", "cards [v2]/a.png|p/a.png|p/sub/b.png"),
        ("cards [v2]", "cards [v2]/a.png"),  # although the pattern would match `cards v`
        ("cards [v2]/**", "cards [v2]/a.png"),
        ("cards [v]/*", "cards v/z.png"),
        ("set {a,b}/x-000.tar", "set {a,b}/x-000.tar"),
        ("set {a,b}/x-{000..001}.tar", "set {a,b}/x-000.tar|set {a,b}/x-001.tar"),
        ("{p/sub,cards v}", "p/sub/b.png|cards v/z.png"),
        ("{p/a,cards v/z}.png", "p/a.png|cards v/z.png"),
        ("50% #1 {a,b} $x", "50% #1 {a,b} $x/q.png"),
        ("caf? \U0001f600/*", "caf\xe9 \U0001f600/e.png"),
        ("nothing*", ""),
    ],
)
def test_what_exists_is_taken_literally_and_else_it_is_a_pattern(folder: Path, given: str, wanted: str) -> None:
    names = wanted.split("|") if "|" in wanted or " [" in wanted or "{" in wanted or "\xe9" in wanted else None
    expected = names if names is not None else wanted.replace("png p/", "png|p/").split("|") if wanted else []
    assert [str(path) for path in matching_files(given, [])] == expected
    assert [str(path) for path in matching_files(f"{folder}/{given}", [])] == [f"{folder}/{name}" for name in expected]


def test_a_home_folder_is_expanded_or_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_path("~/run") == folder / "home" / "run"
    assert matching_files("~/*.png", []) == [folder / "home" / "h.png"]
    for name in ("~no-such-user/x", "~draft"):
        with pytest.raises(UserError, match="there is no user"):
            user_path(name)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match="neither HOME"):
        user_path("~/run")


def test_a_name_that_begins_with_a_tilde_can_be_written(folder: Path) -> None:
    assert user_path("./~draft") == folder / "~draft"
    assert user_path(user_path("./~draft")) == folder / "~draft"
    (folder / "~draft").mkdir()
    assert user_path("~draft") == folder / "~draft"


@pytest.mark.parametrize("given", ["", "  ", "a\0b"])
def test_what_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="empty or holds a NUL"):
        user_path(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", "'missing' does not exist"),
        ("set {a,b}/x-{000..002}.tar", r"x-002.tar' does not exist"),
        ("x{a", "not understood"),
        ("x-{0..999999999999}", "more than 100000 names"),
        ("x-{0..400}{0..400}", "more than 100000 names"),
        ("n" * 300, "does not exist"),
    ],
)
def test_a_name_that_is_missing_is_one_sentence(folder: Path, given: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        matching_files(given, [])


def test_links_are_followed_once_and_never_back_up(folder: Path) -> None:
    for name, target in {"loop": ".", "sub/up": "..", "cards": "../cards v", "above": "..", "self": "self"}.items():
        (folder / "p" / name).symlink_to(target)
    (folder / "p" / "broken.png").symlink_to("missing")
    problems: list[str] = []
    found = matching_files("p", problems)
    assert [str(path) for path in found] == ["p/a.png", "p/cards/z.png", "p/sub/b.png"]
    assert sorted(problem.split(":")[0] for problem in problems) == ["p/above", "p/broken.png", "p/self"]


def test_what_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = ("p/sub", "p/a.png")  # root may read everything, so the system's refusal is played
    scandir, access = os.scandir, os.access

    def refusing(path: os.PathLike[str]) -> object:
        if os.fspath(path).endswith("p/sub"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.png") and access(path, mode))
    os.mkfifo(folder / "p" / "pipe.png")
    problems: list[str] = []
    assert matching_files("p", problems) == []
    assert {problem.split(":")[0] for problem in problems} == {*closed, "p/pipe.png"}
    for name in (*closed, "p/pipe.png"):
        with pytest.raises(StoreError, match=name):
            matching_files(name, [])
