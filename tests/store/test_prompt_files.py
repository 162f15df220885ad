import json
from pathlib import Path

import pytest

from evolvedirector.errors import UserError
from evolvedirector.records import MAX_PROMPT_CHARACTERS
from evolvedirector.store import StoreError
from evolvedirector.store.prompt_files import read_prompt_file

TWO = [("a red circle, on white", "single"), ("two dogs", "counting")]
LINES = '{"prompt": "a red circle, on white", "skill": "single"}\n{"prompt": "two dogs", "skill": "counting"}\n'
ARRAY = '[\n {"prompt": "a red circle, on white", "skill": "single"},\n {"text": "two dogs", "skill": "counting"}\n]\n'
CSV = 'prompt,skill\n"a red circle, on white",single\ntwo dogs,counting\n'
TSV = "Prompt\tSkill\na red circle, on white\tsingle\ntwo dogs\tcounting\n"
YAML = 'prompts:\n  - {prompt: "a red circle, on white", skill: single}\n  - prompt: two dogs\n    skill: counting\n'


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(path: Path) -> list[tuple[str, str]]:
    return [(prompt.text, prompt.skill) for prompt in read_prompt_file(path)]


@pytest.mark.parametrize(
    ("names", "content"),
    [
        ("p.jsonl P.JSONL p.ndjson p.json", LINES),
        ("p.json p.JSON p.yaml", ARRAY),
        ("p.json p.yml", json.dumps({"prompts": json.loads(ARRAY)})),
        ("p.csv P.Csv", CSV),
        ("p.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("p.csv", "prompt;skill\na red circle, on white;single\n\ntwo dogs;counting\n"),
        ("p.tsv p.TSV", TSV),
        ("p.yaml p.YML", YAML),
    ],
)
def test_each_form_is_read_as_what_it_is_whatever_the_case_of_its_suffix(
    tmp_path: Path, names: str, content: str
) -> None:
    for name in names.split():
        assert found(written(tmp_path, name, content)) == TWO, name


def test_plain_texts_need_no_record(tmp_path: Path) -> None:
    lines = "\ufeff# mine\r\na red circle\r\n\r\n// end\r\n  two\u2028 dogs \r[masterpiece] a {red|blue} cat"
    wanted = ["a red circle", "two dogs", "[masterpiece] a {red|blue} cat"]
    texts = {"p.txt": lines, "P.TXT": lines, "p": lines, "p.json": json.dumps(wanted), "p.yaml": json.dumps(wanted)}
    for name, content in texts.items():
        assert [text for text, _ in found(written(tmp_path, name, content))] == wanted, name


@pytest.mark.parametrize(
    ("name", "content", "is_called"),
    [
        ("p.txt", LINES, "is JSON lines(.|\n)*'p.jsonl'"),
        ("p.csv", LINES, "is JSON lines(.|\n)*'p.jsonl'"),
        ("p.yaml", LINES, "is JSON lines"),
        ("p.txt", ARRAY, "is JSON(.|\n)*'p.json'"),
        ("p.jsonl", ARRAY, "is JSON(.|\n)*'p.json'"),
        ("p.jsonl", '["a"]', "is JSON"),
        ("p.txt", CSV, "is CSV(.|\n)*'p.csv'"),
        ("p.jsonl", CSV, "is CSV"),
        ("p.tsv", CSV, "is CSV"),
        ("p.txt", TSV, "is TSV(.|\n)*'p.tsv'"),
        ("p.txt", YAML, "is YAML(.|\n)*'p.yaml'"),
        ("p.json", YAML, "is YAML"),
        ("p.txt", "- a red circle\n- two dogs\n", "is a YAML list"),
        ("p.json", "a red circle\n", "is plain text(.|\n)*'p.txt'"),
        ("p.txt", "<!DOCTYPE html><html>no such file</html>", "HTML"),
        ("p.md", "a red circle\n", r"unknown suffix '\.md'"),
        ("p.jsonl.gz", b"\x1f\x8b", r"unknown suffix '\.gz'"),
        ("p.csv", "a red circle,single\n", "begins with the columns 'a red circle', 'single'"),
        ("p.json", "[1, 2", "is not valid JSON"),
        ("p.yaml", "prompts: [a\n", "is not valid YAML at line 2"),
        ("p.yaml", "counting:\n  - two dogs\n", "no list of prompts"),
        ("p.json", "[" * 100_000, "nested too deeply"),
        ("p.yaml", "[" * 3_000, "nested too deeply"),
        ("p.txt", "a red circle".encode("utf-16"), "it is UTF-16"),
        ("p.txt", "a red circle".encode("utf-16-le"), "UTF-16 or binary"),
        ("p.csv", "prompt\ncaf\xe9".encode("latin-1"), "byte 0xE9 in line 2 is not UTF-8(.|\n)*Latin-1"),
        ("p.txt", "", "holds no prompt"),
        ("p.csv", "prompt,skill\n", "holds no prompt"),
        ("p.csv", 'prompt,skill\n"a, b\nc,d\n', "cannot be read at line 3"),
    ],
)
def test_another_form_is_refused_by_its_name(tmp_path: Path, name: str, content: str | bytes, is_called: str) -> None:
    with pytest.raises(StoreError, match=is_called):
        read_prompt_file(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "fine\n" + "x" * (MAX_PROMPT_CHARACTERS + 1), "line 2: The prompt has 2001 characters"),
        ("p.txt", "a red circle\ntwo dogs --n blurry --w 512", "line 2: it has the option '--n'"),
        ("p.txt", "a red circle\n#1 dad", "line 2: it begins with '#'"),
        ("p.txt", 'a red circle\n{"prompt": "two dogs"}', "line 2: it is a JSON object among"),
        ("p.txt", "fine\na\0b", r"line 2: The prompt holds a control sign, U\+0000"),
        ("p.txt", "\x1b[31mred", r"line 1: The prompt holds a control sign, U\+001B"),
        ("p.jsonl", '{"prompt": "fine"}\n{"prompt": 3}\nnonsense', r"line 2: (.|\n)*line 3: "),
        ("p.jsonl", '{"prompt": "a cat \\ud83d"}', r"line 1: The prompt holds half a character .*U\+D83D"),
        ("p.jsonl", '{"prompt": "a cat", "skill": "sk\\udc00ill"}', r"line 1: The skill holds half a character"),
        ("p.jsonl", '{"prompt": "x", "skill": ["y"]}', "is no text"),
        ("p.jsonl", '{"prompt": "x"}\n' + "[" * 100_000, "line 2: it is nested too deeply"),
        ("p.csv", "prompt,skill\na, b,c\n", "line 2: it has 3 fields, the header has 2"),
        ("p.yaml", "- fine\n- 3\n- no\n", r"entry 2: 3 is no text(.|\n)*entry 3: False is no text"),
        ("p.json", '["fine", null]', "entry 2: None is no text"),
    ],
)
def test_what_cannot_be_used_is_named_by_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read_prompt_file(written(tmp_path, name, content))


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(StoreError, match=r"cannot be read|unknown suffix"):
            read_prompt_file(path)
    with pytest.raises(UserError, match="no user"):
        read_prompt_file("~no-such-user/p.txt")
