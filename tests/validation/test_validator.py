from __future__ import annotations

import pytest

from remit.errors import ValidationFailed
from remit.validation import Bounds, FunctionSchema, Validator


def function(x: int): ...


SCHEMA = FunctionSchema.from_callable(function)


def test_arguments():
    assert Validator().arguments(SCHEMA, (1,), {}) == {"x": 1}
    with pytest.raises(ValidationFailed, match=r"args\.x: must be a valid integer"):
        Validator().arguments(SCHEMA, (), {"x": "1"})


def test_switched_off_size_encoding_and_structure_stay():
    validator = Validator(Bounds(max_bytes=100), enabled=False)
    assert validator.arguments(SCHEMA, (), {"x": "1"}) == {"x": "1"}
    for bad in ("x" * 101, "\x00", [None], object()):
        with pytest.raises(ValidationFailed):
            validator.arguments(SCHEMA, (bad,), {})
        with pytest.raises(ValidationFailed):
            validator.message(bad)


def test_messages_are_text_or_plain_data():
    validator = Validator(Bounds(max_bytes=20))
    assert validator.message("hello") == validator.message(b"hello") == "hello"
    body = {"text": ["hello"]}
    copy = validator.message(body)
    assert copy == body
    assert copy["text"] is not body["text"]
    for bad in (None, b"\xff", "x" * 21, "é" * 11, {"a": None}, {"a": b"x"}, {1: 2}, "\ud800"):
        with pytest.raises(ValidationFailed) as caught:
            validator.message(bad)
        assert caught.value.path.startswith("message")


def test_results_may_be_null_and_bytes():
    assert Validator().result(None) is None
    assert Validator().result([b"x", None]) == [b"x", None]
    with pytest.raises(ValidationFailed) as caught:
        Validator(Bounds(max_bytes=10)).result(["ok", b"x" * 11])
    assert caught.value.path == "result[1]"


def test_json():
    assert Validator().json(b'{"a": [1]}') == {"a": [1]}
    assert Validator().json("[null]", allow_null=True) == [None]
    for bad in ("[null]", '"\\u0000"', '"\\ud800"', "{", b"\xff"):
        with pytest.raises(ValidationFailed) as caught:
            Validator().json(bad)
        assert caught.value.path.startswith("body")
