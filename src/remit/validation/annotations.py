"""Annotations as plain data sees them.

What travels into a jail is plain data, so an annotation is taken as the plain form of what it names: a tuple is a
list, an enumeration is one of its values, a TypedDict is a dict with those keys. A class that would have to be
rebuilt from plain data (a dataclass, a model, a Path, a datetime) is refused when the function is registered, not
when it is called.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Strict
from pydantic.fields import FieldInfo

from remit.errors import PolicyError
from remit.model.spelling import shown
from remit.validation.encoding import excerpt

__all__ = ["Reading", "or_none", "plain", "resolved_signature", "typed_dict"]

_DEEPEST = 32
_LEAVES: tuple[type, ...] = (str, int, float, bool)
_LIST_LIKE = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_DICT_LIKE = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_REMEDY = (
    "annotate it with plain types: str, int, float, bool, bytes, list, dict, TypedDict, Literal, Enum, "
    "or unions of them"
)


class Reading:
    """What was found on the way through the annotations of one function.

    Attributes:
        null, data: whether null, and bytes, are allowed anywhere.
        changes: whether there is an annotation of the user's own that may change what it checks.
        guard: refuse null and bytes where the annotation says nothing (needed once another part allows them).
    """

    __slots__ = ("changes", "data", "guard", "null")

    def __init__(self, *, guard: bool = False) -> None:
        self.null = False
        self.data = False
        self.changes = False
        self.guard = guard


def resolved_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with its annotations as objects; one that cannot be resolved is left out, so anything plain goes.

    Raises:
        PolicyError: `function` has no signature that Python can tell.
    """
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            signature = inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"the signature of {shown(getattr(function, '__name__', type(function).__name__))} cannot be read",
            remedy="wrap it in a function of your own, with annotated parameters",
        ) from error
    inner: Any = inspect.unwrap(function)
    while hasattr(inner, "func"):  # functools.partial
        inner = inspect.unwrap(inner.func)
    if not hasattr(inner, "__globals__"):
        inner = getattr(type(inner), "__call__", inner)  # noqa: B004  # an instance whose class can be called
    namespace = getattr(inner, "__globals__", {})
    parameters = [
        parameter.replace(annotation=_resolved(parameter.annotation, namespace))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


def _resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, localns={}, include_extras=True)["it"]
    except Exception:
        return Any


def plain(annotation: Any, reading: Reading, place: str, depth: int = 0) -> Any:
    """The annotation that checks the plain form of `annotation`.

    Raises:
        PolicyError: it is not the type of plain data.
    """
    if depth > _DEEPEST:
        raise PolicyError("the annotation is recursive, or nested too deeply", place=place, remedy=_REMEDY)

    def inner(part: Any) -> Any:
        return plain(part, reading, place, depth + 1)

    if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        return Annotated[Any, AfterValidator(_no_null_no_bytes)] if reading.guard else Any
    if annotation is None or annotation is type(None):
        reading.null = True
        return None
    if annotation is bytes:
        reading.data = True
        return bytes
    if annotation in _LEAVES:
        return annotation
    if isinstance(annotation, typing.TypeVar):
        if annotation.__bound__ is not None:
            return inner(annotation.__bound__)
        return _union(map(inner, annotation.__constraints__)) if annotation.__constraints__ else inner(Any)
    if isinstance(annotation, typing.NewType):
        return inner(annotation.__supertype__)
    if isinstance(annotation, typing_extensions.TypeAliasType):
        return inner(annotation.__value__)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _one_of(tuple(member.value for member in annotation), reading, place)
    if typing_extensions.is_typeddict(annotation):
        return _typed_dict(annotation, inner, place)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(parts, reading, place, inner)
    if origin is Union or origin is types.UnionType:
        return _union(map(inner, parts))
    if origin is Literal:
        return _one_of(parts, reading, place)
    if annotation is tuple or origin is tuple:
        if not parts:
            return list[inner(Any)]  # type: ignore[misc]  # built at run time
        if len(parts) == 2 and parts[1] is ...:
            return list[inner(parts[0])]  # type: ignore[misc]
        # The plain form is a list: lax about that, and as strict as elsewhere about what is in it.
        return Annotated[tuple[tuple(map(inner, parts))], Strict(strict=False)]  # type: ignore[misc]
    if annotation in _LIST_LIKE or origin in _LIST_LIKE:
        return list[inner(parts[0] if parts else Any)]  # type: ignore[misc]
    if annotation in _DICT_LIKE or origin in _DICT_LIKE:
        key, value = parts or (str, Any)
        return dict[inner(key), inner(value)]  # type: ignore[misc]
    raise PolicyError(f"{_name(annotation)} is not the type of plain data", place=place, remedy=_REMEDY)


def _annotated(parts: tuple[Any, ...], reading: Reading, place: str, inner: Callable[[Any], Any]) -> Any:
    for note in parts[1:]:
        if isinstance(note, FieldInfo) and (note.alias or note.validation_alias or not note.is_required()):
            raise PolicyError(
                "`Field` with an alias or a default does not go with a function's parameter",
                place=place,
                remedy="name the parameter as its callers do, and give the default in the signature",
            )
    reading.changes = True
    return Annotated[(inner(parts[0]), *parts[1:])]


def _typed_dict(annotation: Any, inner: Callable[[Any], Any], place: str) -> Any:
    # Rebuilt, because pydantic refuses typing.TypedDict before Python 3.12, and because its parts must be plain too.
    try:
        hints = typing_extensions.get_type_hints(annotation, include_extras=True)
    except Exception as error:
        raise PolicyError(f"{_name(annotation)} cannot be resolved", place=place, remedy=_REMEDY) from error
    fields = {}
    for name, part in hints.items():
        required = name in annotation.__required_keys__
        while get_origin(part) in _QUALIFIERS:
            # Read here too: where annotations are text, the class itself does not see its qualifiers.
            says = _QUALIFIERS[get_origin(part)]
            required = required if says is None else says
            part = get_args(part)[0]  # noqa: PLW2901  # what is within
        kept = inner(part)
        fields[name] = kept if required else typing_extensions.NotRequired[kept]
    return typed_dict(annotation.__name__, fields)


def typed_dict(name: str, fields: dict[str, Any]) -> Any:
    """A TypedDict made at run time, strict, that takes no other keys."""
    make: Any = typing_extensions.TypedDict
    made = make(name, fields)
    made.__pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    return made


def or_none(annotation: Any) -> Any:
    """`annotation`, or None: for a parameter whose default is None, which says that None may come."""
    return _union((annotation, None))


def _union(parts: Iterable[Any]) -> Any:
    return Union[tuple(parts)]  # noqa: UP007  # the parts need not be types, which alone can be joined by `|`


# What each says of whether the key must be there.
_QUALIFIERS: dict[Any, bool | None] = {
    typing.Required: True,
    typing.NotRequired: False,
    typing_extensions.Required: True,
    typing_extensions.NotRequired: False,
    typing_extensions.ReadOnly: None,
}


def _one_of(values: tuple[Any, ...], reading: Reading, place: str) -> Any:
    values = tuple(value.value if isinstance(value, enum.Enum) else value for value in values)
    for value in values:
        if value is None:
            reading.null = True
        elif type(value) is bytes:
            reading.data = True
        elif type(value) not in (str, int, bool):
            raise PolicyError(
                f"the choice {excerpt(repr(value))} is not a string, integer or boolean", place=place, remedy=_REMEDY
            )
    if not values:
        raise PolicyError("there is nothing to choose from", place=place, remedy=_REMEDY)
    choices: Any = Literal.__getitem__(values)
    if any(type(value) in (int, bool) for value in values):  # 1 == True, and pydantic takes either for the other
        allowed = frozenset((type(value), value) for value in values)

        def same_type(value: Any) -> Any:
            if isinstance(value, (int, float)) and (type(value), value) not in allowed:
                raise ValueError("must be one of " + ", ".join(map(repr, values[:12])))
            return value

        return Annotated[choices, BeforeValidator(same_type)]
    return choices


def _no_null_no_bytes(value: Any) -> Any:
    """For parts without an annotation, in a function where another part allows null or bytes."""
    stack = [value]
    while stack:
        item = stack.pop()
        if item is None:
            raise ValueError("null is not allowed here")
        if type(item) is bytes:
            raise ValueError("bytes are not allowed here")
        if type(item) is list:
            stack.extend(item)
        elif type(item) is dict:
            stack.extend(item.values())
    return value


def _name(annotation: Any) -> str:
    return excerpt(getattr(annotation, "__qualname__", None) or repr(annotation))
