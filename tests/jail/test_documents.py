"""The threat model names every guarantee, and a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import remit.jail
from remit.jail.probe import GUARANTEES

JAIL = Path(remit.jail.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
MODEL = (ROOT / "src/remit/jail/THREAT_MODEL.md").read_text()
ROWS = re.findall(r"^\| (G\d+) \| `(\w+)` \| (.+?) \| .+? \| \[(\S+)\]\((\S+)\) \|$", MODEL, flags=re.MULTILINE)


def test_every_guarantee_stands_in_the_threat_model_in_its_own_words() -> None:
    assert {name: f"{number}: {promise}" for number, name, promise, _, _ in ROWS} == dict(GUARANTEES)


@pytest.mark.parametrize(("number", "link"), [(row[0], row[4]) for row in ROWS])
def test_every_guarantee_has_its_attacks(number: str, link: str) -> None:
    place = (ROOT / "src/remit/jail" / link).resolve()
    assert place.is_file()
    text = place.read_text()
    assert f'"""{number}: ' in text
    assert "def test_" in text or "test_stopped" in text


def test_every_module_of_the_jail_is_in_its_readme() -> None:
    readme = (ROOT / "src/remit/jail/README.md").read_text()
    for module in JAIL.glob("*.py"):
        if module.name != "__init__.py":
            assert f"`{module.name}`" in readme, module.name


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for name in ("README.md", "THREAT_MODEL.md"):
        text = (ROOT / "src/remit/jail" / name).read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / "src/remit/jail" / link).exists(), link
