"""What is granted becomes a jail; nothing becomes more than it was."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError, SandboxUnavailable
from remit.jail.probe import GUARANTEES
from remit.jail.spec import Code
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits
from remit.model.permission import Grant
from remit.policy.compile import NOT_REQUIRED, compile_spec, required
from remit.policy.paths import resolve_all, resolve_deny

CODE = Code("module", "m", "f")


def compiled(*grants, deny=(), code=CODE, **more):
    held = GrantSet([Grant.parse(text) for text in grants], [Grant.parse(text) for text in deny])
    more = {"limits": Limits(), "constraints": Constraints(), **more}
    return compile_spec(owner="a", code=code, grants=held, **more)


def test_running_gives_nothing_but_the_interpreter():
    spec = compiled("basic_execution")
    assert (spec.read, spec.write, spec.execute, spec.tmp, spec.environment) == ((), (), (), 0, ())
    assert not spec.devices
    assert spec.processes == 1
    assert all(os.path.isabs(path) for path in spec.interpreter)


def test_limits_arrive_in_their_units():
    spec = compiled(
        "basic_execution",
        limits=Limits(memory="64MiB", cpu="2s", file_handles=17),
        constraints=Constraints(timeout="3s"),
    )
    assert (spec.memory, spec.cpu, spec.file_handles, spec.timeout) == (64 << 20, 2000, 17, 3000)


def test_the_defaults_are_the_missions():
    spec = compiled("basic_execution")
    assert (spec.memory, spec.cpu, spec.file_handles, spec.timeout) == (256 << 20, 1000, 100, 5000)


def test_unlimited_is_explicit():
    spec = compiled("basic_execution", limits=Limits(cpu="unlimited"), constraints=Constraints(timeout="unlimited"))
    assert (spec.cpu, spec.timeout) == (0, 0)


@pytest.mark.parametrize(
    ("grant", "named"),
    [
        ("network:api.github.com", "network is not brokered yet"),
        ("env:TOKEN", "env is not brokered yet"),
        ("llm:gpt-5*", "llm is not brokered yet"),
    ],
)
def test_a_grant_that_nothing_can_serve_yet_refuses(grant, named):
    with pytest.raises(SandboxUnavailable, match=named) as caught:
        compiled("basic_execution", grant)
    assert caught.value.remedy
    assert caught.value.guarantee == grant.partition(":")[0]


def test_files_go_where_they_were_granted(tmp_path):
    spec = compiled("basic_execution", f"file_system:read:{tmp_path}", "file_system:write:/var/x", "file_system:tmp")
    assert spec.read == (str(tmp_path),)
    assert spec.write == ("/var/x",)
    assert spec.tmp > 0
    assert spec.environment == ()  # where the scratch is, the plan of the machine tells


def test_a_deny_within_a_grant_is_cut_out(tmp_path):
    (tmp_path / "s").mkdir()
    spec = compiled("basic_execution", f"file_system:read,write:{tmp_path}", deny=[f"file_system:read:{tmp_path}/s"])
    assert spec.hide == (f"{tmp_path}/s",)
    spec = compiled("basic_execution", f"file_system:read,write:{tmp_path}", deny=[f"file_system:write:{tmp_path}/s"])
    assert spec.freeze == (f"{tmp_path}/s",)


def test_a_deny_within_a_grant_of_what_is_not_there_refuses(tmp_path):
    with pytest.raises(SandboxUnavailable, match="not there"):
        compiled("basic_execution", f"file_system:read:{tmp_path}", deny=[f"file_system:read:{tmp_path}/none"])


def test_a_deny_of_what_was_never_granted_costs_nothing(tmp_path):
    spec = compiled("basic_execution", deny=[f"file_system:read:{tmp_path}/none", "file_system:write:/etc"])
    assert (spec.hide, spec.freeze) == ((), ())
    spec = compiled("basic_execution", f"file_system:read:{tmp_path}", deny=["file_system:read:/elsewhere"])
    assert spec.hide == ()


def test_a_neighbour_with_a_longer_name_is_not_beneath(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    spec = compiled("basic_execution", f"file_system:read:{tmp_path}/a", deny=[f"file_system:read:{tmp_path}/ab"])
    assert spec.hide == ()


def test_a_program_is_granted_by_its_real_path():
    spec = compiled("basic_execution:sh")
    assert spec.execute == (os.path.realpath("/bin/sh"),)
    assert spec.devices


def test_a_denied_program_is_out_under_each_of_its_names():
    real = os.path.realpath("/bin/sh")
    assert real not in compiled("basic_execution:*", deny=["basic_execution:sh"]).execute
    held = resolve_all([Grant.parse("basic_execution:/bin/*")])
    denied = resolve_deny([Grant.parse(f"basic_execution:{real}")])
    options = {"owner": "a", "code": CODE, "limits": Limits(), "constraints": Constraints()}
    assert real not in compile_spec(grants=GrantSet(held, denied), **options).execute
    assert real in compile_spec(grants=GrantSet(held), **options).execute
    assert real in compiled("basic_execution:*").execute  # the control: it would have been there


def test_a_deny_of_another_kind_takes_no_program_away():
    real = os.path.realpath("/bin/sh")
    assert real in compiled("basic_execution:sh", deny=["env:*", "llm:*"]).execute


def test_what_is_no_program_is_not_executed(tmp_path):
    text = tmp_path / "readme"
    text.write_text("x", encoding="utf-8")
    assert compiled(f"basic_execution:{text}").execute == ()


def test_a_folder_that_is_gone_is_no_working_directory(tmp_path, monkeypatch):
    here = tmp_path / "gone"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert compiled("basic_execution")


def test_all_but_two_guarantees_are_required():
    assert set(required()) == set(GUARANTEES) - NOT_REQUIRED
    assert set(GUARANTEES) >= NOT_REQUIRED


@given(more=st.sets(st.sampled_from(sorted(GUARANTEES))), fewer=st.sets(st.sampled_from(sorted(GUARANTEES))))
def test_required_and_accepted_without(more, fewer):
    needed = set(required(sorted(more), sorted(fewer)))
    assert needed == ((set(GUARANTEES) - NOT_REQUIRED) | more) - fewer


@pytest.mark.parametrize("place", ["require", "accept_without"])
def test_an_unknown_guarantee_is_an_error_that_helps(place):
    with pytest.raises(PolicyError, match="memroy") as caught:
        required(**{place: ["memroy"]})
    assert "memory" in caught.value.remedy
    assert caught.value.place == place


PATHS = st.sampled_from(["/usr", "/usr/lib", "/etc", "/var"])
GRANTS = st.lists(
    st.builds(lambda mode, path: f"file_system:{mode}:{path}", st.sampled_from(["read", "write", "read,write"]), PATHS),
    max_size=4,
)


@given(first=GRANTS, second=GRANTS)
def test_what_is_left_of_two_is_in_neither_more(first, second):
    """Compiling is monotonous: an intersection has no path that one of the two lacks."""
    one = GrantSet([Grant.parse(text) for text in ["basic_execution", *first]])
    two = GrantSet([Grant.parse(text) for text in ["basic_execution", *second]])
    options = {"owner": "a", "code": CODE, "limits": Limits(), "constraints": Constraints()}
    both = compile_spec(grants=one.intersect(two), **options)
    for whole in (compile_spec(grants=one, **options), compile_spec(grants=two, **options)):
        for mine, its in ((both.read, whole.read), (both.write, whole.write)):
            assert all(any(path == root or path.startswith(root + "/") for root in its) for path in mine)


def test_python_itself_as_a_program_has_its_library():
    spec = compiled(f"basic_execution:{os.path.realpath(sys.executable)}", code=Code("program"))
    assert any(sys.base_prefix.startswith(root) or root.startswith(sys.base_prefix) for root in spec.interpreter)
