from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.audit.record import MAX_CONTEXT, MAX_TEXT, decode, draft, is_durable, new_id
from remit.errors import AuditError
from remit.model.event import SecurityEvent
from tests.audit.trails import event

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def encode(what: SecurityEvent, sequence: int = 1) -> bytes:
    return draft(what, now_ms=1_700_000_000_123).encode(sequence)


@given(
    st.text(max_size=30),
    st.text(max_size=30),
    st.dictionaries(st.text(max_size=8), PLAIN, max_size=12),
    st.lists(st.text(max_size=8), max_size=3),
    st.sampled_from([None, "", "01ABC"]),
    st.sampled_from([None, {}, {"wall_ms": 3}]),
    st.integers(1, 1 << 60),
)
def test_the_halves_joined_are_the_canonical_encoding_of_the_whole(
    principal: str,
    resource: str,
    context: dict[str, Any],
    chain: list[str],
    call_id: str | None,
    usage: dict[str, Any] | None,
    sequence: int,
) -> None:
    data = encode(
        event(
            principal=principal, resource=resource, context=context, chain=tuple(chain), call_id=call_id, usage=usage
        ),
        sequence,
    )
    whole = json.loads(data)
    assert data == json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert whole["seq"] == sequence
    assert whole["v"] == 1
    assert "" not in [whole.get(name, "x") for name in ("resource", "call_id")]


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=4), st.text(max_size=20))
def test_what_was_recorded_is_read_back(context: dict[str, Any], resource: str) -> None:
    what = event(
        context=context,
        resource=resource,
        chain=("root", "agent-0"),
        call_id="c1",
        policy_hash="a" * 64,
        arguments_digest="b" * 64,
        usage={"wall_ms": 5},
        enforced_by="seccomp",
        timestamp=5,
        id="own-id",
    )
    record = decode(encode(what, 7))
    assert record.sequence == 7
    assert record.event == what


@given(st.binary(max_size=60) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_record_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"seq": "1"},
        {"seq": True},
        {"timestamp": 1.5},
        {"result": "maybe"},
        {"principal": 1},
        {"chain": [1]},
        {"chain": "a"},
        {"context": []},
        {"usage": 3},
        {"call_id": 4},
    ],
)
def test_a_record_with_a_field_of_the_wrong_type_is_none(change: dict[str, Any]) -> None:
    fields = json.loads(encode(event()))
    decode(json.dumps(fields).encode())
    with pytest.raises(ValueError, match="record"):
        decode(json.dumps({**fields, **change}).encode())


def test_a_record_nested_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        decode(b'{"v":1,"context":' + b"[" * 100_000)


def test_long_text_is_cut_and_marked_at_a_character() -> None:
    text = "\u00e9" * 5000
    cut = decode(encode(event(resource=text, context={"a": text, "b": ["x" * MAX_TEXT]}))).event
    assert cut.resource == "\u00e9" * (MAX_TEXT // 2) + "\u2026[cut: 5000 characters in all]"
    assert cut.context["a"] == cut.resource
    assert cut.context["b"] == ["x" * MAX_TEXT]


def test_a_large_context_is_kept_as_its_beginning() -> None:
    context = {f"key{number:03}": "y" * 4000 for number in range(100)}
    data = encode(event(context=context))
    assert len(data) < MAX_CONTEXT
    assert decode(data).event.context["cut"].startswith('{"key000":"yyy')


def test_many_items_are_cut_and_marked() -> None:
    kept = decode(encode(event(context={"list": list(range(2000)), "object": {str(n): n for n in range(2000)}}))).event
    assert len(kept.context["list"]) == 1001
    assert kept.context["list"][-1] == "\u2026[cut: 2000 items in all]"
    assert kept.context["object"]["\u2026"] == "[cut: 2000 entries in all]"


def test_lone_surrogates_become_visible_and_the_bytes_stay_utf_8() -> None:
    data = encode(event(resource="a\udc80b", context={"\udc81": "\udc82"}))
    data.decode("utf-8")
    assert decode(data).event.resource == "a\\udc80b"
    assert decode(data).event.context == {"\\udc81": "\\udc82"}


def test_control_characters_are_json_escapes_in_the_bytes() -> None:
    assert not [byte for byte in encode(event(resource="\x1b[2J\n\x00")) if byte < 0x20]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"context": {"a": {"b": {1, 2}}}}, "context.a.b"),
        ({"context": {"a": [0, b"x"]}}, "context.a[1]"),
        ({"context": {"n": float("nan")}}, "context.n"),
        ({"usage": {"n": float("inf")}}, "usage.n"),
        ({"context": {1: 2}}, "context"),
        ({"type": "a b"}, "a b"),
        ({"type": "x" * 65}, "x"),
        ({"result": "perhaps"}, "perhaps"),
        ({"timestamp": -1}, "-1"),
        ({"timestamp": 1.0}, "1.0"),
        ({"id": "no spaces"}, "no spaces"),
        ({"context": {"n": 1 << 1024}}, "context.n"),
    ],
)
def test_what_cannot_be_recorded_is_an_error_that_names_the_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(AuditError) as caught:
        encode(event(**change))
    assert place in str(caught.value)


def test_too_deep_nesting_is_an_error() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    with pytest.raises(AuditError, match="nested more than 32 deep"):
        encode(event(context={"deep": deep}))


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_id(1_700_000_000_000 + number // 10) for number in range(1000)]
    assert len(set(ids)) == 1000
    assert [one[:10] for one in ids] == sorted(one[:10] for one in ids)
    assert new_id(0)[:10] == "0" * 10
    assert new_id((1 << 48) - 1)[:10] == "7ZZZZZZZZZ"
    assert {len(one) for one in ids} == {26}


def test_denied_and_privileged_events_are_durable_and_others_when_asked() -> None:
    assert not is_durable(event())
    assert is_durable(event(result="denied"))
    assert all(is_durable(event(type=kind)) for kind in ("started", "stopped", "configured", "killed", "grant"))
    assert draft(event(), now_ms=1, durable=True).durable
    assert not draft(event(), now_ms=1).durable


def test_the_recorder_sets_what_the_event_leaves_open() -> None:
    first, second = (decode(encode(event())).event for _ in range(2))
    assert first.timestamp == 1_700_000_000_123
    assert first.id != second.id
