from __future__ import annotations

import collections
import enum
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import ValidationFailed
from remit.validation import Bounds, canonicalise, digest, parse_json

BOUNDS = Bounds()
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\ufeff"), max_size=20)
LEAVES = st.booleans() | st.integers(-(2**900), 2**900) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
PLAIN = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=30
)
ANY_LEAF = LEAVES | st.none() | st.binary() | st.floats() | st.text() | st.complex_numbers() | st.just(object())
ANYTHING = st.recursive(
    ANY_LEAF,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=30,
)


def fails(value, match, path=None, **options):
    with pytest.raises(ValidationFailed, match=match or None) as caught:
        canonicalise(value, options.pop("bounds", BOUNDS), path="args", **options)
    error = caught.value
    assert str(error).isprintable()
    assert len(str(error)) < 600
    if path is not None:
        assert error.path == path
    return error


def same(one, other):
    """Equal and of the very same types all the way."""
    assert type(one) is type(other)
    if type(one) is dict:
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif type(one) is list:
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    else:
        assert one == other


def containers(value):
    if type(value) in (dict, list):
        yield id(value)
        for inner in value.values() if type(value) is dict else value:
            yield from containers(inner)


@given(PLAIN)
def test_plain_data_comes_back_equal_and_as_a_new_value(value):
    copy = canonicalise(value, BOUNDS)
    same(copy, value)
    assert not set(containers(copy)) & set(containers(value))


@given(PLAIN)
def test_json_there_and_back(value):
    text = json.dumps(value)
    same(parse_json(text, BOUNDS), value)
    same(parse_json(text.encode(), BOUNDS), value)


@given(ANYTHING, st.booleans(), st.booleans())
def test_nothing_but_validation_failed_comes_out_of_anything(value, null, data):
    refused, copy = None, None
    try:
        copy = canonicalise(value, BOUNDS, allow_null=null, allow_bytes=data)
    except ValidationFailed as error:
        refused = error
    if refused is not None:
        assert refused.reason
        assert refused.path.startswith("value")
        return
    stack = [copy]
    while stack:
        item = stack.pop()
        assert type(item) in (dict, list, str, int, float, bool, bytes, type(None))
        assert null or item is not None
        assert data or type(item) is not bytes
        assert type(item) is not float or math.isfinite(item)
        stack.extend([*item, *item.values()] if type(item) is dict else item if type(item) is list else [])


@given(st.binary() | st.text() | st.text(alphabet='[]{}",:\\ue019.-truefalsnINy ', max_size=60))
def test_nothing_but_validation_failed_comes_out_of_any_text(data):
    refused = ""
    try:
        parse_json(data, BOUNDS)
    except ValidationFailed as error:
        refused = str(error)
    assert refused.isprintable()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"items": [1, 2, 3, {"url": None}]}, "args.items[3].url"),
        ([[["a", object()]]], "args[0][0][1]"),
        ({"a b": None}, "args[`a b`]"),
        ({"x": {"ok": 1, "\u202e": None}}, "args.x[`\\u202e`]"),
        (None, "args"),
        ([{"a": 1}, {"b": [1]}, None], "args[2]"),
        ({"a": {"b": 1}, "c": None}, "args.c"),
    ],
)
def test_errors_say_where(value, path):
    fails(value, "", path)


def test_depth_nodes_lengths_and_bits():
    small = Bounds(max_bytes=50, depth=3, nodes=10, string_length=20, key_length=4, integer_bits=8)
    assert canonicalise([[[1]]], small) == [[[1]]]
    fails([[[[1]]]], "nested more than 3", "args[0][0][0]", bounds=small)
    assert canonicalise([1] * 9, small) == [1] * 9
    fails([1] * 10, "more than 10 values", bounds=small)
    fails("x" * 21, "21 characters", bounds=small)
    fails({"abcde": 1}, "a key of 5 characters", bounds=small)
    assert canonicalise([255, -255], small) == [255, -255]
    fails(256, "9 bits", bounds=small)
    fails(["x" * 20] * 3, "more than 50 bytes", "args[2]", bounds=small)
    fails(["é" * 13, "é" * 13], "more than 50 bytes", bounds=small)
    fails([b"x" * 20] * 3, "more than 50 bytes", bounds=small, allow_bytes=True)
    fails(b"x" * 21, "21 bytes", bounds=small, allow_bytes=True)


def test_very_deep_values_end_in_an_error_not_in_the_interpreter():
    value = []
    for _ in range(100_000):
        value = [value]
    fails(value, "nested more than 64")
    value = {}
    for _ in range(100_000):
        value = {"a": value}
    fails(value, "nested more than 64")
    for text in ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "[" * (1 << 20)):
        with pytest.raises(ValidationFailed, match="nested more than 64"):
            parse_json(text, BOUNDS)


def test_cycles_and_laughs():
    ring: list = []
    ring.append(ring)
    fails(ring, "contains itself")
    one: dict = {}
    one["other"] = [one]
    fails({"x": [one]}, "contains itself")
    wide: list = []
    wide.extend([wide] * 1000)
    fails(wide, "contains itself")
    laugh: list = ["ha"] * 10
    for _ in range(20):
        laugh = [laugh] * 10
    fails(laugh, "more than 100000 values")
    fails(["x" * 100_000] * 100, "more than 1048576 bytes")


def test_huge_integers_are_refused_before_they_cost_anything():
    fails(1 << 10_000_000, "bits")
    for text in ("9" * 1_000_000, "-" + "9" * 1_000_000):
        with pytest.raises(ValidationFailed, match="an integer of"):
            parse_json(text, BOUNDS)
    assert parse_json(str(2**1023), BOUNDS) == 2**1023


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 1j, {1}, frozenset(), range(3), iter([]), len, int]
)
def test_what_is_not_plain_is_refused(value):
    fails([value], "", "args[0]")


@pytest.mark.parametrize("key", [1, None, b"a", (), 1.5, True])
def test_keys_are_strings(key):
    fails({"x": {key: 1}}, "a key of type", "args.x")


@pytest.mark.parametrize("text", ["a\x00", "\ud800", "\x1b[0m", "\ufeffx", "\uffff"])
def test_strings_and_keys_are_looked_at(text):
    fails({"x": [text]}, "", "args.x[0]")
    fails({"x": {text: 1}}, "")
    with pytest.raises(ValidationFailed):
        canonicalise(parse_json(json.dumps({"x": text}), BOUNDS), BOUNDS)


class Evil(Exception):
    pass


def boom(*args, **kwargs):
    raise Evil


METHODS = dict.fromkeys(
    [
        "__iter__",
        "__len__",
        "__getitem__",
        "__eq__",
        "__repr__",
        "__str__",
        "__bool__",
        "items",
        "keys",
        "values",
        "isprintable",
        "__format__",
        "__index__",
        "__int__",
        "__float__",
        "__add__",
        "__sub__",
        "__lt__",
        "__gt__",
        "bit_length",
        "encode",
    ],
    boom,
)


def test_no_method_of_a_strangers_class_is_run():
    evil = {
        base: type("Evil" + base.__name__, (base,), METHODS) for base in (dict, list, tuple, str, int, float, bytes)
    }

    class EvilKey(str):
        __slots__ = ()
        __repr__ = __str__ = isprintable = boom

        def __hash__(self) -> int:
            return 7

    value = evil[dict](
        {"a": evil[list]([evil[int](5), evil[float](1.5), evil[str]("x"), evil[bytes](b"y"), evil[tuple]((1,))])}
    )
    copy = canonicalise(value, BOUNDS, allow_bytes=True)
    same(copy, {"a": [5, 1.5, "x", b"y", [1]]})
    same(canonicalise({EvilKey("k"): 1}, BOUNDS), {"k": 1})
    fails(type("Evil", (), METHODS)(), "`Evil` is not plain data")


def test_a_class_that_lies_about_its_class():
    class Liar:
        @property
        def __class__(self) -> type:
            return dict

    fails(Liar(), "`Liar` is not plain data")


def test_a_metaclass_does_not_get_to_answer_either():
    class Meta(type):
        __name__ = property(boom)

        def __instancecheck__(cls, other) -> bool:
            raise Evil

    class Strange(metaclass=Meta):
        pass

    fails(Strange(), "is not plain data")


def test_keys_that_become_the_same_are_refused():
    class Different(str):
        __slots__ = ()

        def __eq__(self, other) -> bool:
            return self is other

        __hash__ = str.__hash__

    fails({Different("a"): 1, Different("a"): 2}, "twice")


def test_tuples_enums_and_ordered_things_become_plain():
    class Level(enum.IntEnum):
        HIGH = 3

    class Word(str, enum.Enum):  # noqa: UP042  # the older form is still about
        YES = "yes"

    point = collections.namedtuple("point", "x y")  # noqa: PYI024  # a tuple made at run time
    value = [point(1, (2,)), Level.HIGH, Word.YES, collections.OrderedDict(a=1), collections.Counter("a")]
    same(canonicalise(value, BOUNDS), [[1, [2]], 3, "yes", {"a": 1}, {"a": 1}])


def test_null_and_bytes_only_where_they_are_allowed():
    fails([None], "null", "args[0]", allow_bytes=True)
    fails([b""], "bytes", "args[0]", allow_null=True)
    fails([bytearray()], "bytes", "args[0]")
    assert canonicalise([None, b"a", bytearray(b"b")], BOUNDS, allow_null=True, allow_bytes=True) == [None, b"a", b"b"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1, "a": 2}', "the key `a` is there twice"),
        ('{"x": {"\\u0061": 1, "a": 2}}', "twice"),
        ("NaN", "`NaN`"),
        ("[Infinity]", "`Infinity`"),
        ("-Infinity", "`-Infinity`"),
        ("1e400", "too large"),
        ("-1e999999", "too large"),
        ("", "not JSON"),
        ("[1,]", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("01", "not JSON"),
        ("[1] 2", "not JSON"),
        ('"a\nb"', "not JSON"),
        ('"\x01"', "control character"),
        ("\ufeff[]", "byte order mark"),
        ("[" * 3 + "]" * 9, "not JSON"),
    ],
)
def test_json_that_is_refused(text, match):
    for data in (text, text.encode()):
        with pytest.raises(ValidationFailed, match=match):
            parse_json(data, BOUNDS)


def test_json_keeps_integers_exact_and_brackets_in_strings():
    assert parse_json("[123456789012345678901234567890, -0.0, 1e-400]", BOUNDS) == [
        123456789012345678901234567890,
        0.0,
        0.0,
    ]
    text = json.dumps({"a": "[" * 500 + '\\"{' + "," * 200_000})
    assert parse_json(text, BOUNDS) == {"a": "[" * 500 + '\\"{' + "," * 200_000}


@pytest.mark.parametrize(
    "text",
    [
        "[]" * 500000,
        "[" + '"",' * 300000 + "1]",
        "[" + "1," * 500000 + "1]",
        "[" + "[]," * 150000 + "1]",
        '""' * 500000,
        '"\\' * 500000,
        '\\"' * 500000,
        "," * (1 << 20),
        "]" * (1 << 20),
        '{"a":[' * 150000,
    ],
)
def test_a_megabyte_of_spite_is_refused(text):
    with pytest.raises(ValidationFailed):
        parse_json(text[: 1 << 20], BOUNDS)


def test_bounds_are_positive_integers():
    for bad in (0, -1, 1.5, True, "1", None):
        with pytest.raises(ValueError, match="positive integer"):
            Bounds(nodes=bad)
    with pytest.raises(ValueError, match="at most 512"):
        Bounds(depth=513)
    assert parse_json("[" * 512 + "]" * 512, Bounds(depth=512)) is not None


@given(PLAIN, PLAIN)
def test_a_digest_tells_values_apart(one, other):
    def form(value):
        return json.dumps(value, sort_keys=True)

    assert (digest(one) == digest(other)) == (form(one) == form(other))


def test_a_digest_does_not_depend_on_order_and_is_not_fooled():
    assert digest({"a": 1, "b": [True]}) == digest({"b": [True], "a": 1})
    assert digest(b"\x00") != digest({"$bytes": "00"})
    assert digest({"$$bytes": "00"}) != digest({"$bytes": "00"})
    assert digest([{"$x": b"a"}]) != digest([{"$$x": b"a"}])
    assert len({digest(v) for v in (1, 1.0, True, "1", None, [1], b"1")}) == 7
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize("value", [object(), float("nan"), {1}, float("inf")])
def test_what_is_not_plain_has_no_digest(value):
    with pytest.raises(ValidationFailed):
        digest([value])


def test_a_value_too_deep_has_no_digest():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValidationFailed, match="too deeply"):
        digest(value)
