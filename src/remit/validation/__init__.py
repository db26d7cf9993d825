"""Validation: size, encoding, parsing, structure and schema, in this order, each bounded before the next."""

from __future__ import annotations

from remit.validation.schema import FunctionSchema, Parameter
from remit.validation.structure import Bounds, canonicalise, digest, parse_json
from remit.validation.validator import Validator

__all__ = ["Bounds", "FunctionSchema", "Parameter", "Validator", "canonicalise", "digest", "parse_json"]
