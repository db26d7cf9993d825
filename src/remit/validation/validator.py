"""One place through which everything enters: arguments, messages, results, JSON.

Each step is bounded before the next: size, encoding, parsing, structure, schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remit.validation.encoding import check_size, check_text, decode
from remit.validation.schema import FunctionSchema
from remit.validation.structure import Bounds, canonicalise, parse_json

__all__ = ["Validator"]


class Validator:
    """Checks with one set of bounds.

    Args:
        bounds: the bounds of each value.
        enabled: False drops the check against the schema. Size, encoding and structure are never dropped: without them
            nothing could travel safely.
    """

    __slots__ = ("bounds", "enabled")

    def __init__(self, bounds: Bounds | None = None, *, enabled: bool = True) -> None:
        self.bounds = bounds or Bounds()
        self.enabled = enabled

    def arguments(self, schema: FunctionSchema, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, bound, copied and checked; the copy is what the function gets.

        Raises:
            ValidationFailed: with the path, such as `args.items[3].url`.
        """
        return schema.bind(args, kwargs, self.bounds, check=self.enabled)

    def message(self, value: object) -> Any:
        """A message: text, UTF-8 bytes (returned as text), or plain data without null and bytes (returned as a copy).

        Raises:
            ValidationFailed: with a path that begins with `message`.
        """
        if isinstance(value, (bytes, bytearray)):
            return decode(value, self.bounds.max_bytes, path="message")
        if isinstance(value, str):
            text = str.__str__(value)
            check_size(text, self.bounds.max_bytes, "message")
            check_text(text, path="message")
            return text
        return canonicalise(value, self.bounds, path="message")

    def result(self, value: object) -> Any:
        """What a jail returned: plain data, null and bytes among it; a copy.

        Raises:
            ValidationFailed: with a path that begins with `result`.
        """
        return canonicalise(value, self.bounds, allow_null=True, allow_bytes=True, path="result")

    def json(self, data: bytes | bytearray | memoryview | str, *, allow_null: bool = False, path: str = "body") -> Any:
        """The plain value of JSON text.

        Raises:
            ValidationFailed: with a path that begins with `path`.
        """
        return canonicalise(parse_json(data, self.bounds, path=path), self.bounds, allow_null=allow_null, path=path)
