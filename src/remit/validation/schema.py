"""The schema of a function: its signature, as a strict check of plain arguments.

The arguments are bound as Python binds them, copied and checked as plain data, and held against the annotations by
pydantic in strict mode: no text becomes a number, no number a boolean. The copy is what the function gets, in plain
form: a tuple as a list, an enumeration by its value.
"""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import typing_extensions
from pydantic import TypeAdapter, ValidationError

from remit.errors import PolicyError, ValidationFailed
from remit.model.spelling import did_you_mean, shown
from remit.validation.annotations import Reading, or_none, plain, resolved_signature, typed_dict
from remit.validation.encoding import excerpt
from remit.validation.structure import Bounds, canonicalise, path_of
from remit.validation.text import described, from_text

__all__ = ["FunctionSchema", "Parameter"]

_KINDS = {
    "positional_only": inspect.Parameter.POSITIONAL_ONLY,
    "positional_or_keyword": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "var_positional": inspect.Parameter.VAR_POSITIONAL,
    "keyword_only": inspect.Parameter.KEYWORD_ONLY,
    "var_keyword": inspect.Parameter.VAR_KEYWORD,
}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
_MOST_PARAMETERS = 255
_LONGEST_NAME = 255
_NOTHING: Any = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: an identifier. kind: `positional_only`, `positional_or_keyword`, `var_positional`, `keyword_only` or
            `var_keyword`. required: whether a call must give it. annotation: its type, as an object; Any where there
            is none. default: a plain default that is filled in when it is not given, else `inspect.Parameter.empty`:
            a default that is not plain data is left to the function itself.
    """

    name: str
    kind: str
    required: bool
    annotation: Any = Any
    default: Any = _NOTHING


class FunctionSchema:
    """How one function is called. Made by `from_callable` or `from_description`.

    Attributes:
        name: the function's name, for messages.
        parameters: in the order of the signature.
    """

    __slots__ = (
        "_adapter",
        "_changing",
        "_data",
        "_defaults",
        "_names",
        "_null",
        "_plain",
        "_positional",
        "_required",
        "_validate",
        "_var_keyword",
        "_var_positional",
        "name",
        "parameters",
    )

    def __init__(self, name: str, parameters: Sequence[Parameter]) -> None:
        self.name = name
        self.parameters = tuple(parameters)
        self._names = {parameter.name: parameter for parameter in parameters}
        self._positional = tuple(p.name for p in parameters if p.kind.startswith("positional"))
        self._required = tuple(p.name for p in parameters if p.required)
        self._defaults = {p.name: p.default for p in parameters if p.default is not _NOTHING}
        self._var_positional = next((p.name for p in parameters if p.kind == "var_positional"), None)
        self._var_keyword = next((p.name for p in parameters if p.kind == "var_keyword"), None)
        reading, fields, changing = self._read(guard=False)
        if reading.null or reading.data:
            reading, fields, changing = self._read(guard=True)
        self._null, self._data, self._changing, self._plain = reading.null, reading.data, changing, fields
        arguments = typed_dict(
            "Arguments", {name: typing_extensions.NotRequired[field] for name, field in fields.items()}
        )
        try:
            self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
        except Exception as error:  # what pydantic raises for a bad constraint has no one class
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PolicyError(
                f"the annotations cannot be made into a check: {first[:200]}", place=self._place()
            ) from error
        self._validate = self._adapter.validator.validate_python

    @classmethod
    def from_callable(cls, function: Callable[..., Any], *, name: str | None = None) -> FunctionSchema:
        """The schema of a function that is imported here.

        Args:
            function: any callable with a signature.
            name: its name in messages; by default its own.

        Raises:
            PolicyError: a parameter is annotated with what is not plain data, or there is no signature.
        """
        if name is None:
            name = str(getattr(function, "__name__", type(function).__name__))
        parameters = []
        for parameter in resolved_signature(function).parameters.values():
            default = parameter.default
            kept = _NOTHING
            if default is not _NOTHING:
                try:
                    kept = canonicalise(default, Bounds(), allow_null=True, allow_bytes=True)
                except ValidationFailed:
                    kept = _NOTHING  # not plain: the function fills it in itself
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            annotation = parameter.annotation
            parameters.append(
                Parameter(
                    name=parameter.name,
                    kind=_KIND_NAMES[parameter.kind],
                    required=default is _NOTHING and not variable,
                    annotation=or_none(annotation) if default is None else annotation,
                    default=kept,
                )
            )
        return cls(name, parameters)

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any] | Sequence[Any], *, name: str = "function"
    ) -> FunctionSchema:
        """The schema of a function that is not imported here: its signature came out of a jail, as plain data.

        Args:
            description: a list of parameters, or a mapping with `parameters` (that list) and perhaps `name`. Each
                parameter is a mapping with `name`, `kind`, `required` (bool) and perhaps `annotation` (text, see
                `described`, or None). It is believed in nothing: every part is checked, none is evaluated.
            name: the name in messages where the description has none.

        Raises:
            PolicyError: it is not such a description.
        """
        if isinstance(description, Mapping):
            given = description.get("name", name)
            if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_NAME:
                raise PolicyError("the description of a function has no proper `name`")
            name = given
            description = description.get("parameters", ())
        place = f"signature of {shown(name)}"
        if not isinstance(description, Sequence) or isinstance(description, (str, bytes)):
            raise PolicyError("`parameters` must be a list", place=place)
        if len(description) > _MOST_PARAMETERS:
            raise PolicyError(f"more than {_MOST_PARAMETERS} parameters", place=place)
        parameters = [_described_parameter(item, place) for item in description]
        try:
            # Python's own rules about order and repeated names.
            inspect.Signature([inspect.Parameter(p.name, _KINDS[p.kind]) for p in parameters])
        except ValueError as error:
            raise PolicyError(f"no function has such parameters: {excerpt(str(error))}", place=place) from None
        return cls(name, parameters)

    def bind(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], bounds: Bounds | None = None, *, check: bool = True
    ) -> dict[str, Any]:
        """The arguments by name, in the order of the signature, copied, checked, defaults filled in.

        What a `*rest` takes is a list under `rest`, what a `**more` takes a dict under `more`; `spread` undoes that. A
        positional-only parameter may be given by name too, because a model names all its arguments.

        Args:
            args: positional arguments.
            kwargs: arguments by name.
            bounds: the bounds of all of them together.
            check: hold them against the annotations; False leaves only binding and structure.

        Raises:
            ValidationFailed: with the path, such as `args.items[3].url`.
        """
        bounds = bounds or _DEFAULT_BOUNDS
        given = self._given(args, kwargs)
        for name in self._required:
            if name not in given:
                missing = [name for name in self._required if name not in given]
                raise ValidationFailed(
                    f"`{self.name}` is missing " + ", ".join(f"`{name}`" for name in missing[:12]),
                    path="args",
                    remedy=f"it is called as {self.usage()}",
                )
        values: dict[str, Any] = canonicalise(given, bounds, allow_null=self._null, allow_bytes=self._data, path="args")
        if check:
            try:
                checked = self._validate(values)
            except ValidationError as error:
                _explain(error, values)
            except Exception as error:  # a check of the user's own, or a constraint that does not fit: it denies
                raise ValidationFailed(
                    f"a check of `{self.name}` failed by itself with {type(error).__name__}",
                    path="args",
                    remedy="mend the constraint in its annotations",
                ) from error
            for name in self._changing:
                if name in values:  # a check of the user's own may have changed it: what it made is what counts
                    values[name] = canonicalise(
                        checked[name],
                        bounds,
                        allow_null=self._null,
                        allow_bytes=self._data,
                        path=path_of("args", (name,)),
                    )
        bound = {}
        for name in self._names:
            if name in values:
                bound[name] = values[name]
            elif name in self._defaults:
                default = self._defaults[name]
                if type(default) in (list, dict):  # a fresh one for each call
                    default = canonicalise(default, _DEFAULT_BOUNDS, allow_null=True, allow_bytes=True)
                bound[name] = default
        return bound

    def spread(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for the call itself, from what `bind` returned."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        rest = bound.get(self._var_positional, ()) if self._var_positional else ()
        gap = False
        for parameter in self.parameters:
            name = parameter.name
            if parameter.kind == "var_positional":
                positional.extend(rest)
            elif parameter.kind == "var_keyword":
                named.update(bound.get(name, {}))
            elif name not in bound:
                gap = True  # left to a default of the function's own; what follows positionally was not given either
            elif parameter.kind == "positional_only" or (rest and parameter.kind == "positional_or_keyword"):
                if not gap:
                    positional.append(bound[name])
            else:
                named[name] = bound[name]
        return positional, named

    def parse_text(self, name: str, text: str, bounds: Bounds | None = None) -> Any:
        """The value that `text` means for the parameter `name`, as on a command line (`NAME=TEXT`).

        Raises:
            ValidationFailed: there is no such parameter, or its annotation allows nothing that the text could be.
        """
        parameter = self._names.get(name)
        annotation = self._plain[name] if parameter is not None else None
        if parameter is None:
            if self._var_keyword is None:
                raise self._unknown(name)
            annotation = typing_extensions.get_args(self._plain[self._var_keyword])[1]
        return from_text(annotation, text, bounds or _DEFAULT_BOUNDS, path_of("args", (name,)))

    def json_schema(self) -> dict[str, Any]:
        """A JSON Schema (2020-12) of the arguments by name, for a model."""
        schema = self._adapter.json_schema()
        schema.pop("title", None)
        properties: dict[str, Any] = schema.setdefault("properties", {})
        for name, part in properties.items():
            part.pop("title", None)
            if self._defaults.get(name) is not None and _is_json(self._defaults[name]):
                part["default"] = self._defaults[name]
        schema["required"] = list(self._required)
        if self._var_keyword is not None:
            more = properties.pop(self._var_keyword).get("additionalProperties", True)
            schema["additionalProperties"] = more
        return schema

    def usage(self) -> str:
        """How it is called, in a word: `fetch(url, *, timeout=...)`."""
        words = []
        star = False
        for p in self.parameters:
            if p.kind == "keyword_only" and not star and self._var_positional is None:
                words.append("*")
                star = True
            mark = {"var_positional": "*", "var_keyword": "**"}.get(p.kind, "")
            variable = mark != ""
            words.append(f"{mark}{p.name}" + ("" if p.required or variable else "=..."))
        return f"`{self.name}({', '.join(words)})`"

    def _read(self, *, guard: bool) -> tuple[Reading, dict[str, Any], tuple[str, ...]]:
        whole = Reading(guard=guard)
        fields: dict[str, Any] = {}
        changing = []
        for p in self.parameters:
            reading = Reading(guard=guard)
            field = plain(p.annotation, reading, self._place(p.name))
            if p.kind == "var_positional":
                field = list[field]  # type: ignore[valid-type]
            elif p.kind == "var_keyword":
                field = dict[str, field]  # type: ignore[valid-type]
            fields[p.name] = field
            if reading.changes:
                changing.append(p.name)
            whole.null |= reading.null
            whole.data |= reading.data
        return whole, fields, tuple(changing)

    def _place(self, parameter: str = "") -> str:
        return f"{self.name}({parameter})"

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """By name, as Python binds: positions first, then names, then what is left over."""
        given: dict[str, Any] = {}
        if args:
            given.update(zip(self._positional, args, strict=False))
            left = list(args[len(self._positional) :])
            if left:
                if self._var_positional is None:
                    raise ValidationFailed(
                        f"`{self.name}` takes at most {len(self._positional)} positional arguments, "
                        f"{len(args)} were given",
                        path="args",
                        remedy=f"it is called as {self.usage()}",
                    )
                given[self._var_positional] = left
        more: dict[str, Any] = {}
        for name, value in dict.items(kwargs) if isinstance(kwargs, dict) else kwargs.items():
            parameter = self._names.get(name) if type(name) is str else None
            if parameter is None or (
                self._var_keyword is not None and parameter.kind in ("positional_only", "var_positional", "var_keyword")
            ):
                if self._var_keyword is None or not isinstance(name, str):
                    raise self._unknown(name)
                more[str.__str__(name)] = value
            elif parameter.name in given:
                raise ValidationFailed(
                    f"{excerpt(parameter.name)} is given twice, by position and by name",
                    path="args",
                    remedy="give it once",
                )
            else:
                given[parameter.name] = value
        if more and self._var_keyword is not None:
            given[self._var_keyword] = more
        return given

    def _unknown(self, name: object) -> ValidationFailed:
        if not isinstance(name, str):
            return ValidationFailed(f"`{self.name}` takes arguments by name, and names are strings", path="args")
        name = str.__str__(name)
        known = [known for known, p in self._names.items() if p.kind not in ("var_positional", "var_keyword")]
        remedy = did_you_mean(name, known) if known else "it takes none by name"
        return ValidationFailed(f"`{self.name}` has no argument {excerpt(name)}", path="args", remedy=remedy)


_DEFAULT_BOUNDS = Bounds()
_SHOWN = (str, int, float, bool)


def _described_parameter(item: Any, place: str) -> Parameter:
    if not isinstance(item, Mapping):
        raise PolicyError("each parameter must be a mapping", place=place)
    unknown = set(item) - {"name", "kind", "required", "annotation"}
    if unknown:
        raise PolicyError(f"unknown key {shown(min(map(str, unknown)))} of a parameter", place=place)
    name, kind, required = item.get("name"), item.get("kind", "positional_or_keyword"), item.get("required", True)
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not name.isidentifier() or keyword.iskeyword(name):
        raise PolicyError(f"{excerpt(str(name)[:100])} is not the name of a parameter", place=place)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise PolicyError(f"unknown kind of parameter {excerpt(str(kind)[:100])}", place=place)
    if not isinstance(required, bool):
        raise PolicyError("`required` must be true or false", place=place)
    annotation = described(item.get("annotation"), place)
    return Parameter(name, kind, required and not kind.startswith("var_"), annotation)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _explain(error: ValidationError, values: Any) -> NoReturn:
    """Raise the first error, at its path in the value: pydantic's also names members of unions, which are no steps."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    steps: list[str | int] = []
    value = values
    for step in first["loc"]:
        if isinstance(step, int):
            if type(value) is list and 0 <= step < len(value):
                value = value[step]
                steps.append(step)
        elif type(value) is dict and step in value:
            value = value[step]
            steps.append(step)
    if first["type"] == "extra_forbidden":
        reason, remedy = "there is no such key", "leave it out"
    elif first["type"] == "missing":
        reason, remedy = f"the key {excerpt(str(first['loc'][-1]))} is missing", "add it"
    else:
        text = first["msg"].removeprefix("Value error, ")
        reason = excerpt(text).strip("`") if len(text) > 200 else shown(text).strip("`")
        reason = reason[:1].lower() + reason[1:]
        reason = reason.replace("input should be", "must be")
        kind = "null" if value is None else type(value).__name__
        if first["type"] != "value_error":
            reason += f", not {kind}" + (f" {excerpt(str(value))}" if type(value) in _SHOWN else "")
        remedy = ""
    raise ValidationFailed(reason, path=path_of("args", tuple(steps)), remedy=remedy) from None
