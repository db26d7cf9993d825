"""The text of a policy: plain data once over, or an error with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.policy.document import LARGEST, load, parse

POLICY = """\
version: 1
agents:
  reader:
    permissions:
      - basic_execution
      - "file_system:read:/data"
    limits: {memory: 256MiB, cpu: 1.5}
    no_value:
"""


def test_yaml_becomes_plain_data_with_places() -> None:
    document = parse(POLICY, form="yaml", source="remit.yaml")
    reader = document.data["agents"]["reader"]
    assert reader["permissions"] == ["basic_execution", "file_system:read:/data"]
    assert reader["limits"] == {"memory": "256MiB", "cpu": 1.5}
    assert reader["no_value"] is None
    assert document.place("agents", "reader", "permissions", 1) == "remit.yaml:6:9"
    assert document.place("agents", "reader", "limits", "cpu") == "remit.yaml:7:30"
    assert document.place("agents", "reader", "unknown", 7) == "remit.yaml:3:3"
    assert document.place() == "remit.yaml"
    lists = parse("a:\n  - [1, [2, 3]]\n  - {b: [4]}\nc: 5\n", form="yaml", source="f")
    assert lists.data == {"a": [[1, [2, 3]], {"b": [4]}], "c": 5}
    assert lists.place("a", 0, 1, 1) == "f:2:13"
    assert lists.place("a", 1, "b", 0) == "f:3:10"


def test_the_other_formats_say_the_same() -> None:
    toml = parse('[a]\nb = [1, "x"]\n', form="toml", source="remit.toml")
    assert toml.data == parse('{"a": {"b": [1, "x"]}}', form="json", source="f").data
    assert toml.place("a", "b", 0) == "remit.toml: a.b[0]"
    assert parse("", form="yaml", source="f").data == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x 1\nb: *x", "f:1:4: the anchor `x`"),
        ("a: *x", "f:1:4"),
        ("a: 1\nb: 2\na: 3", "f:3:1: the key `a` is given twice"),
        ('a: 1\n"a": 3', "given twice"),
        ("a: no", 'write "no"'),
        ("a: 1:30", "different things"),
        ("a: 0777", "different things"),
        ("a: 0x10", "different things"),
        ("a: 2020-01-01", "different things"),
        ("a: .nan", "different things"),
        ("a: 1_000", "different things"),
        ("<<: {a: 1}", "merge keys"),
        ("a: !!python/object/apply:os.system [x]", "the tag"),
        ("a: !!str 1", "the tag"),
        ("1: 2", "is not text"),
        ("null: 2", "is not text"),
        ("[a]: 2", "a key must be text"),
        ("? {a: 1}\n: b", "a key must be text"),
        ("a: 1\n---\nb: 2", "one document"),
        ("[" * 50, "deeper than 32"),
        ("a: [1", "f:2:1: not YAML"),
        ("- 1", "a policy is a mapping"),
        ("7", "a policy is a mapping"),
        ('{a: "\x07"}', "not YAML"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text, form="yaml", source="f")
    assert told in str(caught.value)
    assert str(caught.value).startswith("f")


@pytest.mark.parametrize(
    ("form", "text", "told"),
    [
        ("json", '{"a": 1, "a": 2}', "given twice"),
        ("json", '{"a": NaN}', "not a number"),
        ("json", '{"a": }', "f:1:7: not JSON"),
        ("json", "[" * 100_000, "too deeply"),
        ("json", '{"a": ' + "1" * 5000 + "}", "not JSON"),
        ("json", "[]", "is a mapping"),
        ("toml", "a = 1\na = 2", "not TOML"),
        ("toml", "a = [1", "not TOML"),
        ("toml", "a = " + "[" * 5000, "too deeply"),
        ("toml", "a = " + "1" * 5000, "not TOML"),
        ("ini", "", "unknown format"),
    ],
)
def test_the_other_formats_are_as_strict(form: str, text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text, form=form, source="f")
    assert told in str(caught.value)


def test_many_entries_are_refused() -> None:
    with pytest.raises(PolicyError, match="entries"):
        parse("[" + "1," * 100_001 + "]", form="yaml", source="f")


@given(
    st.text(max_size=60) | st.text(alphabet="ab:-[]{},&*!'\"|>?# \n01~<", max_size=60),
    st.sampled_from(["yaml", "toml", "json"]),
)
def test_any_text_is_data_or_a_policy_error(text: str, form: str) -> None:
    place = "f"
    try:
        assert isinstance(parse(text, form=form, source="f").data, dict)
    except PolicyError as error:
        place = error.place
    assert place.startswith("f")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "remit.yaml"
    path.write_text(POLICY)
    assert load(path).place("version") == f"{path}:1:1"


def test_a_file_that_cannot_be_the_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such file"):
        load(tmp_path / "remit.yaml")
    with pytest.raises(PolicyError, match="ends in"):
        load(tmp_path / "remit.ini")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(PolicyError, match="is a directory"):
        load(tmp_path / "folder.yaml")
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(PolicyError, match="regular file"):
        load(tmp_path / "fifo.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9")
    with pytest.raises(PolicyError, match="not UTF-8 at byte 3"):
        load(latin)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(PolicyError, match="larger than"):
        load(large)
    with pytest.raises(PolicyError, match="larger than"):
        parse("#" * (LARGEST + 1), form="yaml", source="f")
    everybodys = tmp_path / "open.yaml"
    everybodys.write_text("version: 1")
    everybodys.chmod(0o666)
    with pytest.raises(PolicyError, match="anybody may write"):
        load(everybodys)
