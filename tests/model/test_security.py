"""Security: what code declares, in its own words or as a mapping."""

from __future__ import annotations

from typing import Any

import pytest

from remit.errors import PolicyError
from remit.model.limits import Constraints
from remit.model.security import Security


def test_a_mapping_in_camel_case_means_the_same() -> None:
    mapping = {"permissions": ["network", "basic_execution"], "constraints": {"maxTokens": 1000, "timeout": 5000}}
    assert Security.of(mapping) == Security(
        permissions=["network", "basic_execution"], constraints=Constraints(max_tokens=1000, timeout="5s")
    )
    assert Security.of({"acceptWithout": ["quota"]}).accept_without == ("quota",)


def test_left_out_is_not_empty() -> None:
    assert Security.of(None).permissions is None
    assert Security(permissions=[]).permissions == ()
    given = Security()
    assert Security.of(given) is given


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"permisions": []}, "did you mean `permissions`"),
        ({"permissions": "network"}, "is not a list"),
        ({"permissions": {"network": True}}, "is not a list"),
        ({"permissions": 7}, "is not a list"),
        ({"permissions": ["network", 7]}, "permissions[1]"),
        ({"constraints": {"timeout": 5}}, "5 milliseconds"),
        ({"require": ["a"], "acceptWithout": ["a"]}, "both required and accepted without"),
    ],
)
def test_a_mistake_says_where(mapping: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Security.of(mapping)
    assert told in str(caught.value)
