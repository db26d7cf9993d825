"""An outcome says how a call ended, and is the error that it deserves."""

from __future__ import annotations

import pytest

from remit import errors
from remit.model.call import Outcome


def outcome(status, **more):
    return Outcome(status=status, function="f", principal="a", call_id="c", event_id="e1", **more)


def test_a_returned_outcome_is_its_value():
    made = outcome("returned", value=[1, None])
    assert made.ok
    assert made.error() is None
    assert made.unwrap() == [1, None]


def test_none_is_a_value_too():
    assert outcome("returned").unwrap() is None


@pytest.mark.parametrize(
    ("status", "what", "kind", "also"),
    [
        ("raised", "ValueError", errors.FunctionRaised, Exception),
        ("limit", "timeout", errors.TimeLimit, TimeoutError),
        ("limit", "cpu", errors.TimeLimit, TimeoutError),
        ("limit", "memory", errors.MemoryLimit, MemoryError),
        ("limit", "result", errors.LimitExceeded, Exception),
        ("limit", "import", errors.LimitExceeded, Exception),
        ("limit", "queue_timeout", errors.LimitExceeded, Exception),
        ("denied", "file_system:read:/x", errors.Denied, PermissionError),
        ("denied", "too many refused attempts", errors.Denied, PermissionError),
        ("killed", "cancelled", errors.Killed, Exception),
        ("crashed", "SIGSEGV", errors.Crashed, Exception),
    ],
)
def test_every_other_end_raises_its_error(status, what, kind, also):
    made = outcome(status, what=what)
    assert not made.ok
    error = made.error()
    assert type(error) is kind
    assert isinstance(error, also)
    assert isinstance(error, errors.RemitError)
    assert error.event_id == "e1"
    assert error.reason
    assert "`f`" in str(error)
    with pytest.raises(kind):
        made.unwrap()


def test_what_was_raised_comes_as_text():
    error = outcome("raised", what="my.Error", message="no", traceback="Traceback ...").error()
    assert isinstance(error, errors.FunctionRaised)
    assert (error.type_name, error.message, error.traceback) == ("my.Error", "no", "Traceback ...")


def test_a_limit_says_its_bound_and_what_was_used():
    error = outcome("limit", what="timeout", bound=2000, used=2001).error()
    assert isinstance(error, errors.LimitExceeded)
    assert (error.limit, error.value, error.used) == ("timeout", 2000, 2001)
    assert "2000 ms" in str(error)
    assert "raise `timeout`" in error.remedy


def test_an_import_is_not_mended_by_a_setting_that_does_not_exist():
    error = outcome("limit", what="import").error()
    assert error is not None
    assert "raise `import`" not in error.remedy
    assert "module of its own" in error.remedy


def test_only_a_full_queue_and_a_crash_may_go_better_the_next_time():
    assert outcome("limit", what="queue_timeout").error().retryable
    assert outcome("crashed", what="SIGSEGV").error().retryable
    assert not outcome("limit", what="timeout").error().retryable
    assert not outcome("denied", what="x").error().retryable


def test_the_signal_of_a_crash_is_a_signal_or_nothing():
    assert outcome("crashed", what="SIGSEGV").error().signal == "SIGSEGV"
    assert outcome("crashed", what="channel: not a frame").error().signal == ""


def test_a_missing_grant_is_named_as_one_would_type_it():
    error = outcome("denied", what="file_system:read:/etc/passwd", message="[Errno 13]").error()
    assert "file_system:read:/etc/passwd" in error.remedy
