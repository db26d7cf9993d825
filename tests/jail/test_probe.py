from __future__ import annotations

import pytest

from remit.jail.probe import GUARANTEES, Features, guarantees
from remit.jail.supervisor import Supervisor, Unheld
from tests.jail.conftest import run_in, spec_of

FULL = {
    "supported": True,
    "landlock_abi": 7,
    "namespaces": True,
    "call_userns": True,
    "listener": True,
    "machine": "x86_64",
}


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        ({}, set()),
        ({"namespaces": False, "call_userns": False}, {"file_metadata", "scratch_quota"}),
        ({"call_userns": False}, {"scratch_quota"}),
        ({"listener": False}, {"refusals_seen"}),
        ({"landlock_abi": 0}, {"files", "processes", "clean_start"}),
        ({"landlock_abi": 1}, set()),
        ({"supported": False}, set(GUARANTEES)),
    ],
)
def test_what_follows_from_what_is_there(without: dict[str, object], lost: set[str]) -> None:
    held = guarantees(Features(**{**FULL, **without}))  # type: ignore[arg-type]
    assert set(held) == set(GUARANTEES)
    assert {name for name, one in held.items() if not one.held} == lost
    for name in lost:
        assert held[name].missing
        assert held[name].remedy


def test_the_guarantees_are_numbered() -> None:
    numbers = [text.split(":")[0] for text in GUARANTEES.values()]
    assert numbers == [f"G{n}" for n in range(1, len(GUARANTEES) + 1)]


@pytest.mark.parametrize(
    "simulate", [{}, {"namespaces": False}, {"landlock_abi": 1}, {"listener": False}, {"stack_sealed": False}]
)
def test_what_is_simulated_is_found_and_named(simulate: dict[str, object]) -> None:
    supervisor = Supervisor(simulate=simulate)
    try:
        found = supervisor.features
        for name, value in simulate.items():
            assert getattr(found, name) == value
        outcome = run_in(supervisor, "def go(x): return x", 1)
        assert outcome.value == 1
        assert outcome.tier == found.tier
        assert ("namespaces" in outcome.tier) == found.namespaces
        assert ("notify" in outcome.tier) == found.listener
    finally:
        supervisor.close()


@pytest.mark.parametrize(
    ("simulate", "fields", "guarantee"),
    [
        ({"namespaces": False}, {"required": ("file_metadata",)}, "file_metadata"),
        ({"namespaces": False}, {"tmp": 1 << 20}, "scratch_quota"),
        ({"namespaces": False}, {"processes": 2}, "processes"),
        ({"namespaces": False}, {"read": ("/usr",), "hide": ("/usr/share",)}, "files"),
        ({"landlock_abi": 0}, {"required": ("files",)}, "files"),
        ({"listener": False}, {"required": ("refusals_seen",)}, "refusals_seen"),
    ],
)
def test_what_is_not_held_is_refused(simulate: dict[str, object], fields: dict[str, object], guarantee: str) -> None:
    supervisor = Supervisor(simulate=simulate)
    try:
        with pytest.raises(Unheld) as caught:
            supervisor.template(spec_of("def go(x): return x", **fields))
        assert caught.value.guarantee == guarantee
        assert caught.value.remedy
    finally:
        supervisor.close()
