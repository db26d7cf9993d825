from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import inspect
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict, TypeVar

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError, ValidationFailed
from remit.validation import Bounds, FunctionSchema


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Options(TypedDict, total=False):
    size: typing.Required[int]
    names: list[str]


def of(function):
    return FunctionSchema.from_callable(function)


def bind(function, *args, **kwargs):
    return of(function).bind(args, kwargs)


def fails(function, match, *args, **kwargs):
    with pytest.raises(ValidationFailed, match=match) as caught:
        bind(function, *args, **kwargs)
    return caught.value


def one(annotation):
    def function(x): ...

    function.__annotations__["x"] = annotation
    return function


def plain_function(url: str, n: int, items: list[dict[str, int]] = [], *, deep: bool = False): ...  # noqa: B006


def test_arguments_are_bound_by_position_and_name_in_the_order_of_the_signature():
    bound = bind(plain_function, "u", deep=True, n=1)
    assert bound == {"url": "u", "n": 1, "items": [], "deep": True}
    assert list(bound) == ["url", "n", "items", "deep"]


def test_a_default_is_a_fresh_copy_for_each_call():
    schema = of(plain_function)
    schema.bind(("u", 1), {})["items"].append("left over")
    assert schema.bind(("u", 1), {})["items"] == []
    assert plain_function.__defaults__ == ([],)


def test_what_is_bound_is_a_copy():
    items = [{"a": 1}]
    bound = bind(plain_function, "u", 1, items)
    items[0]["a"] = "changed afterwards"
    assert bound["items"] == [{"a": 1}]


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "is missing `url`, `n`; it is called as `plain_function(url, n, items=..., *, deep=...)`"),
        (("u", 1, [], True), {}, "takes at most 3 positional arguments, 4 were given"),
        (("u", 1), {"url": "v"}, "`url` is given twice"),
        (("u", 1), {"itens": []}, "has no argument `itens`; did you mean `items`?"),
        (("u", 1), {"\u202e\x1b": []}, "`\\u202e\\x1b`"),
        (("u", 1), {1: 2}, "names are strings"),
        (("u", 1), {"x" * 10_000: 2}, "has no argument"),
    ],
)
def test_a_call_that_does_not_fit_the_signature(args, kwargs, text):
    with pytest.raises(ValidationFailed) as caught:
        of(plain_function).bind(args, kwargs)
    assert text in str(caught.value)
    assert caught.value.path == "args"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -5, 2**900], [True, 1.0, "1", None, b"1", [1]]),
        (float, [1.5, 2], [True, "1.5", None]),
        (str, ["", "x"], [1, b"x", None, ["x"]]),
        (bool, [True, False], [0, 1, "true", None]),
        (bytes, [b"", b"\x00\xff"], ["x", None, [b"x"]]),
        (list, [[], [1, "a"]], [{}, "ab", [None], [b"x"]]),
        (list[int], [[], [1]], [["1"], [True], "12", {}]),
        (dict, [{}, {"a": [1]}], [[], "x", {"a": None}]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "1"}, []]),
        (Sequence[int], [[1]], ["ab", {"a": 1}]),
        (Mapping[str, bool], [{"a": True}], [{"a": 1}, []]),
        (Optional[int], [None, 1], ["1", True]),  # noqa: UP045  # both spellings
        (int | None, [None, 1], ["1"]),
        (int | list[str], [1, ["a"]], ["a", [1]]),
        (Literal["a", "b"], ["a"], ["c", 1, None]),
        (Literal[1, "x"], [1, "x"], [True, 1.0, 2]),
        (Literal[True], [True], [1]),
        (Color, ["red", "blue"], ["RED", "green", 1]),
        (Options, [{"size": 1}, {"size": 1, "names": ["a"]}], [{}, {"size": "1"}, {"size": 1, "other": 2}]),
        (Annotated[int, pydantic.Field(gt=3)], [4], [3, "4"]),
        (pydantic.PositiveInt, [4], [0]),
        (NewType("UserId", int), [1], ["1"]),
        (TypeVar("T", bound=str), ["a"], [1]),
        (TypeVar("S", int, str), ["a", 1], [1.5]),
        (Any, [1, "a", {"a": [1.5]}], [None, b"x", [None], {"a": b"x"}]),
        (object, [1], [None]),
        (Any | None, [None, 1], [[None], b"x"]),
        (dict[str, Any] | None, [None, {"a": 1}], [{"a": None}, {"a": [{"b": b"x"}]}]),
        (dict[str, int | None], [{"a": None, "b": 1}], [None]),
        (list[list[list[int]]], [[[[1]]]], [[[1]]]),
        ("list['int']", [[1]], [["1"]]),
        ("Unknown[int]", [1, "x"], [None]),
    ],
)
def test_annotations_are_strict(annotation, good, bad):
    function = one(annotation)
    for value in good:
        assert bind(function, value) == {"x": value}
        assert type(bind(function, value)["x"]) is type(value)
    for value in bad:
        error = fails(function, None, value)
        assert error.path.startswith("args.x")
        assert error.reason.isprintable()


def test_tuples_travel_as_lists_and_are_checked_part_by_part():
    function = one(tuple[int, str])
    assert bind(function, (1, "a")) == bind(function, [1, "a"]) == {"x": [1, "a"]}
    assert fails(function, "valid string", (1, 2)).path == "args.x[1]"
    fails(function, None, [1])
    assert bind(one(tuple[int, ...]), (1, 2, 3)) == {"x": [1, 2, 3]}
    fails(one(tuple[int, ...]), None, ["a"])


@pytest.mark.parametrize(
    "annotation",
    [
        dt.datetime,
        pathlib.Path,
        dataclasses.make_dataclass("D", [("x", int)]),
        pydantic.create_model("M", x=(int, 1)),
        set[int],
        complex,
        list[pathlib.Path],
        dict[str, int | dt.date],
        typing.Callable[[], int],
        type[int],
        typing.TypedDict("Bad", {"p": pathlib.Path}),
        Literal[b"x", "y"] | set,
        enum.Enum("Odd", {"A": 1.5}),
    ],
)
def test_what_is_not_plain_is_refused_when_it_is_registered(annotation):
    with pytest.raises(PolicyError) as caught:
        of(one(annotation))
    assert caught.value.place == "function(x)"
    assert "annotate it with plain types" in caught.value.remedy


def test_a_constraint_that_makes_no_sense_is_refused_when_it_is_registered():
    with pytest.raises(PolicyError, match="cannot be made into a check"):
        of(one(Annotated[str, pydantic.Field(pattern="(")]))
    with pytest.raises(PolicyError, match="alias"):
        of(one(Annotated[int, pydantic.Field(alias="y")]))


def test_what_a_check_of_the_users_own_makes_is_what_counts():
    trimmed = one(Annotated[str, pydantic.StringConstraints(strip_whitespace=True, max_length=2)])
    assert bind(trimmed, " ab ") == {"x": "ab"}
    fails(trimmed, "at most 2", "abc")

    def into_path(text):
        return pathlib.Path(text)

    into_object = one(Annotated[str, pydantic.AfterValidator(into_path)])
    fails(into_object, "not plain data", "/etc")


def test_a_check_that_breaks_denies():
    def broken(value):
        raise KeyError(value)

    for annotation in (Annotated[str, pydantic.AfterValidator(broken)], Annotated[bool, pydantic.Field(max_length=3)]):
        value = "x" if annotation.__origin__ is str else True
        fails(one(annotation), "failed by itself with", value)


def test_errors_name_the_place_and_show_little():
    def function(items: list[dict[str, str | int]]): ...

    error = fails(function, "must be", [{}, {}, {}, {"url": 1.5}])
    assert error.path == "args.items[3].url"
    error = fails(one(int), "must be a valid integer, not str", "\x85"[1:] + "s" * 100_000)
    assert len(str(error)) < 250
    assert "\u202e" not in str(fails(one(int), None, "\u202eabc"))


def test_kinds_of_parameters():
    def function(a, b=2, /, c: int = 3, *rest: int, d: str = "d", **more: bool): ...

    schema = of(function)
    bound = schema.bind((1, 2, 3, 4, 5), {"z": True})
    assert bound == {"a": 1, "b": 2, "c": 3, "rest": [4, 5], "d": "d", "more": {"z": True}}
    assert schema.spread(bound) == ([1, 2, 3, 4, 5], {"d": "d", "z": True})
    # With **more, a name of a positional-only parameter is one more name, as in Python.
    assert schema.bind((1,), {"a": True})["more"] == {"a": True}
    for bad in ((1, 2, 3, "4"), (1, 2, "3")):
        with pytest.raises(ValidationFailed):
            schema.bind(bad, {})
    with pytest.raises(ValidationFailed):
        schema.bind((1,), {"z": 1})


def test_a_positional_only_parameter_may_be_named_by_a_model():
    def function(a: int, /, *rest: str): ...

    schema = of(function)
    bound = schema.bind((), {"a": 1, "rest": ["x"]})
    assert schema.spread(bound) == ([1, "x"], {})


ARGS = st.lists(st.integers(0, 9), max_size=5)
KWARGS = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e", "rest", "more"]), st.integers(0, 9), max_size=5)


@given(ARGS, KWARGS)
def test_binding_agrees_with_python(args, kwargs):
    def first(a, b=2, *, c, d=4): ...
    def second(a, /, b=2, *rest, c=3): ...
    def third(a=1, b=2, **more): ...
    def fourth(a, b, c=3): ...
    def fifth(*rest, **more): ...

    for function in (first, second, third, fourth, fifth):
        schema = of(function)
        if {"a", "rest", "more"} & set(kwargs) and function in (second, fifth):
            continue  # there a model may name what Python may not
        try:
            expected = inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(ValidationFailed):
                schema.bind(args, kwargs)
            continue
        positional, named = schema.spread(schema.bind(args, kwargs))
        again = inspect.signature(function).bind(*positional, **named)
        expected.apply_defaults()
        again.apply_defaults()
        assert again.arguments == expected.arguments


def test_a_default_that_is_not_plain_is_left_to_the_function():
    marker = object()

    def function(a, b=marker, c=3, color: Color = Color.RED): ...

    schema = of(function)
    bound = schema.bind((1,), {})
    assert bound == {"a": 1, "c": 3}
    assert schema.spread(bound) == ([], {"a": 1, "c": 3})
    assert schema.bind((1,), {"color": "blue"})["color"] == "blue"

    def positional(a=marker, b=2, /): ...

    assert of(positional).spread(of(positional).bind((), {})) == ([], {})


def test_a_default_of_none_says_that_none_may_come():
    def function(a: int = None, b=None, c: list[Any] = None): ...  # noqa: RUF013

    assert bind(function) == {"a": None, "b": None, "c": None}
    assert bind(function, None, None, None) == {"a": None, "b": None, "c": None}
    assert fails(function, "null is not allowed", c=[None]).path == "args.c[0]"
    fails(function, None, b={"x": None})


def test_methods_partials_and_callable_objects():
    class Tool:
        def method(self, x: int): ...

        def __call__(self, y: str) -> None: ...

    assert bind(Tool().method, 1) == {"x": 1}
    assert bind(Tool(), "a") == {"y": "a"}
    fails(Tool(), None, 1)
    assert of(functools.partial(plain_function, "u")).bind((1,), {}) == {"n": 1, "items": [], "deep": False}
    with pytest.raises(PolicyError, match="cannot be read"):
        of(dict)


def test_without_the_check_binding_and_structure_stay():
    schema = of(plain_function)
    assert schema.bind((1, "n"), {}, check=False)["n"] == "n"
    for kwargs in ({"unknown": 1}, {"items": [None]}, {"items": [float("nan")]}, {}):
        with pytest.raises(ValidationFailed):
            schema.bind(("u",) if not kwargs else ("u", 1), kwargs, check=False)


def test_bounds_hold_for_all_arguments_together():
    def function(a: str, b: str, c: int | None = None): ...

    with pytest.raises(ValidationFailed, match="more than 15 bytes"):
        of(function).bind(("x" * 8, "y" * 8), {}, Bounds(max_bytes=15))


def test_a_json_schema_for_a_model():
    def function(a: int, b: Literal["x", "y"] = "x", *rest: int, o: Options | None = None, **more: bool): ...

    schema = of(function).json_schema()
    assert schema["required"] == ["a"]
    assert schema["properties"]["a"] == {"type": "integer"}
    assert schema["properties"]["b"] == {"enum": ["x", "y"], "type": "string", "default": "x"}
    assert schema["properties"]["rest"] == {"type": "array", "items": {"type": "integer"}}
    assert schema["additionalProperties"] == {"type": "boolean"}
    assert of(plain_function).json_schema()["additionalProperties"] is False


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "5", 5),
        (int, "-5", -5),
        (float, "1e3", 1000.0),
        (float, "5", 5.0),
        (bool, "true", True),
        (bool, "No", False),
        (str, "5", "5"),
        (Any, "5", "5"),
        (bytes, "é", b"\xc3\xa9"),
        (list[int], "[1, 2]", [1, 2]),
        (dict, '{"a": null}', {"a": None}),
        (tuple[int, str], '[1, "a"]', [1, "a"]),
        (Options, '{"size": 1}', {"size": 1}),
        (int | str, "5", 5),
        (int | str, "x", "x"),
        (bool | int, "1", 1),
        (int | None, "null", None),
        (str | None, "null", None),
        (Color, "red", "red"),
        (Literal[1, True], "1", 1),
        (Annotated[int, pydantic.Field(gt=1)], "7", 7),
    ],
)
def test_text_of_a_command_line(annotation, text, value):
    found = of(one(annotation)).parse_text("x", text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "x"),
        (int, "1.0"),
        (int, "1_0"),
        (int, "\u0665"),
        (float, "nan"),
        (float, "inf"),
        (bool, "maybe"),
        (list, "1"),
        (list, '{"a": 1}'),
        (list, "[1"),
        (dict, "NaN"),
        (Color, "green"),
        (int | None, ""),
        (int, "9" * 100_000),
    ],
)
def test_text_that_means_nothing(annotation, text):
    with pytest.raises(ValidationFailed) as caught:
        of(one(annotation)).parse_text("x", text)
    assert caught.value.path == "args.x"


def test_text_for_names_that_are_and_are_not_there():
    def function(a: int, **more: float): ...

    assert of(function).parse_text("z", "2") == 2.0
    with pytest.raises(ValidationFailed, match="did you mean `items`"):
        of(plain_function).parse_text("itms", "2")


def test_a_description_out_of_a_jail():
    schema = FunctionSchema.from_description(
        {
            "name": "f",
            "parameters": [
                {"name": "a", "kind": "positional_only", "required": True, "annotation": "int"},
                {
                    "name": "b",
                    "kind": "positional_or_keyword",
                    "required": False,
                    "annotation": "list[dict[str, int | None]]",
                },
                {"name": "rest", "kind": "var_positional", "required": False, "annotation": None},
                {"name": "c", "kind": "keyword_only", "required": False, "annotation": "__import__('os').system('x')"},
                {"name": "more", "kind": "var_keyword", "required": False},
            ],
        }
    )
    assert schema.bind((1, [{"a": None}], "r"), {"c": 5, "z": 1}) == {
        "a": 1,
        "b": [{"a": None}],
        "rest": ["r"],
        "c": 5,
        "more": {"z": 1},
    }
    assert schema.bind((1,), {}) == {"a": 1}  # defaults are the function's own affair
    with pytest.raises(ValidationFailed):
        schema.bind(("1",), {})
    assert schema.parse_text("b", "[]") == []


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        "ab",
        5,
        [5],
        [{"name": "a b"}],
        [{"name": "class"}],
        [{"name": ""}],
        [{"name": 5}],
        [{"name": "a" * 256}],
        [{"name": "a", "kind": "other"}],
        [{"name": "a", "kind": ["x"]}],
        [{"name": "a", "required": 1}],
        [{"name": "a", "annotation": 5}],
        [{"name": "a", "surprise": 5}],
        [{"name": "a"}, {"name": "a"}],
        [{"name": "a", "kind": "keyword_only"}, {"name": "b"}],
        [{"name": f"a{n}"} for n in range(256)],
    ],
)
def test_a_description_that_describes_nothing(parameters):
    with pytest.raises(PolicyError):
        FunctionSchema.from_description({"name": "f", "parameters": parameters})


@given(st.text(alphabet="intlisdcbyoafur None[],|. ", max_size=60))
def test_any_annotation_in_a_description_is_read_or_counts_as_none(text):
    schema = FunctionSchema.from_description([{"name": "a", "annotation": text}])
    assert [p.name for p in schema.parameters] == ["a"]


def test_a_description_nested_without_end():
    schema = FunctionSchema.from_description([{"name": "a", "annotation": "list[" * 40 + "int" + "]" * 40}])
    assert schema.bind((["x"],), {}, check=False) == {"a": ["x"]}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=15,
)


@given(st.lists(ANYTHING, max_size=4), st.dictionaries(st.sampled_from(["url", "n", "items", "opts", "x"]), ANYTHING))
def test_nothing_but_validation_failed_comes_out(args, kwargs):
    def function(url: str, n: int | None, items: list[Options | int], opts: dict[str, Any] = {}): ...  # noqa: B006

    refused, bound = None, {}
    try:
        bound = of(function).bind(args, kwargs)
    except ValidationFailed as error:
        refused = error
    if refused is None:
        assert set(bound) == {"url", "n", "items", "opts"}
    else:
        assert refused.path.startswith("args")
        assert str(refused).isprintable()
