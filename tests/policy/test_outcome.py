"""What a jail's ending means."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import SandboxUnavailable
from remit.jail.spec import Code, Ending, Refusal
from remit.jail.supervisor import Unfit
from remit.model.call import Outcome, ToolCall
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.policy.outcome import enforced_by, fit_for_an_event, outcome_of, short, unfit

CODE = Code("module", "m", "f")
CONTEXT = SecurityContext(chain=(Principal("a"),), grants=GrantSet(), timestamp=0)
CALL = ToolCall(id="c", function="f", context=CONTEXT)


def test_nothing_of_an_ending_is_lost():
    ending = Ending("limit", value=1, what="cpu", message="m", traceback="t", stdout=b"o", stderr=b"e", used=2, bound=1)
    outcome = outcome_of(CALL, ending)
    for field in fields(Ending):
        if field.name not in ("usage", "refusals"):
            assert getattr(outcome, field.name) == getattr(ending, field.name)
    assert (outcome.call_id, outcome.function, outcome.principal) == ("c", "f", "a")


def test_an_import_that_takes_too_long_is_a_limit():
    assert unfit(Unfit({"gone": "import: timeout"}), "f", CODE).what == "import"


def test_an_import_that_wants_a_grant_says_which_and_how_to_avoid_it():
    ending = unfit(Unfit({"type": "PermissionError", "message": "x", "needs": "network:h:1"}), "f", CODE)
    assert (ending.status, ending.what) == ("denied", "network:h:1")
    assert 'ship="value"' in ending.message


def test_an_import_that_raises_is_raised():
    ending = unfit(Unfit({"type": "ValueError", "message": "no", "traceback": "T"}), "f", CODE)
    assert (ending.status, ending.what, ending.traceback) == ("raised", "ValueError", "T")


@pytest.mark.parametrize("said", [{"gone": "the zygote ended"}, {"wall": "no landlock"}, {"unfit": "threads"}])
def test_where_there_was_no_jail_there_was_no_call(said):
    with pytest.raises(SandboxUnavailable) as caught:
        unfit(Unfit(said), "f", CODE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("status", "what", "refusals", "by"),
    [
        ("limit", "timeout", (), "timer"),
        ("limit", "memory", (), "rlimit"),
        ("limit", "queue_timeout", (), "monitor"),
        ("limit", "result", (), "supervisor"),
        ("denied", "network:x", (Refusal(None, "socket", "", "kernel"),), "seccomp"),
        ("denied", "file_system:read:/x", (Refusal(None, "open", "", "guest"),), "landlock"),
        ("returned", "", (), "jail"),
    ],
)
def test_who_ended_it(status, what, refusals, by):
    assert enforced_by(outcome_of(CALL, Ending(status, what=what, refusals=refusals))) == by


@given(st.text() | st.none() | st.integers() | st.binary())
def test_a_name_of_a_strangers_is_fit_for_an_event(name):
    text = fit_for_an_event(name)
    assert text.isprintable()
    assert 0 < len(text) <= 128


@given(st.text(), st.integers(3, 50))
def test_what_is_cut_is_no_longer_than_said(text, limit):
    assert len(short(text, limit)) <= limit


def test_an_outcome_is_complete_without_more():
    assert isinstance(outcome_of(CALL, Ending("returned")), Outcome)
