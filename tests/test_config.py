"""Configuration: the file is the ceiling, the environment carries no authority, each value knows where it came from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from remit.config import SecurityConfig, default_state_dir, host_environment, prepare_state_dir
from remit.errors import PolicyError
from remit.model.limits import UNLIMITED, RateLimit
from remit.model.permission import access

MISSION: dict[str, Any] = {
    "permissions": {"enabled": True, "default": ["basic_execution"], "restricted": ["file_system", "env"]},
    "validation": {"enabled": True, "maxSize": 1024 * 1024, "allowedTypes": ["string", "number", "boolean"]},
    "rateLimiting": {"enabled": True, "defaultLimit": 100, "defaultWindow": 60000},
    "monitoring": {"enabled": True, "logLevel": "info", "auditTrail": True},
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def written(folder: Path, text: str, name: str = "remit.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_configuration_in_camel_case_loads(env: dict[str, str]) -> None:
    config = SecurityConfig.from_mapping(MISSION, env)
    assert config.validation.max_size == 1 << 20
    assert config.monitoring.level == "info"
    assert config.audit.path == Path(env["HOME"], ".local/state/remit/audit.db")
    assert config.policy_hash == SecurityConfig.from_mapping({}, env).policy_hash
    settings = config.agent(
        "agent-1",
        security={"permissions": ["network", "basic_execution"], "constraints": {"maxTokens": 1000, "timeout": 5000}},
        limits={"memory": 268435456, "cpu": 1000, "connections": 10, "fileHandles": 100, "poolSize": 1000},
        rate_limits={"messages": {"limit": 100, "window": 60000}, "functions": {"limit": 1000, "window": 3600000}},
    )
    assert settings.policy.grants.as_text() == ["network", "basic_execution"]
    assert settings.constraints.timeout == 5000
    assert settings.rate_limits.functions == RateLimit(1000, 3_600_000)


def test_settings_go_defaults_file_environment_code(elsewhere: Path, env: dict[str, str]) -> None:
    path = written(elsewhere, "audit: {path: trail.db, anchor: /anchor/file, fsync: all}\nmonitoring: {level: debug}\n")
    assert SecurityConfig.load(env=env).path == path  # found in the current folder
    file = SecurityConfig.load(path, env)
    assert (file.audit.path, file.audit.fsync, file.monitoring.level) == (elsewhere / "trail.db", "all", "debug")
    assert file.source("audit.path") == f"{path}:1:9"
    assert file.source("state_dir") == file.source("memory_budget") == "default"
    env |= {
        "REMIT_AUDIT_PATH": "/e/trail.db",
        "REMIT_LOG_LEVEL": "error",
        "REMIT_STATE_DIR": "/e/state",
        "REMIT_CI": "1",
    }
    env |= {"REMIT_MEMORY_BUDGET": "1GiB", "REMIT_AUDIT_FSYNC": ""}
    both = SecurityConfig.load(path, env)
    assert (both.audit.path, both.monitoring.level, both.state_dir) == (Path("/e/trail.db"), "error", Path("/e/state"))
    assert (both.audit.fsync, both.audit.anchor, both.memory_budget) == ("all", Path("/anchor/file"), 2**30)
    assert both.source("audit.path") == "environment REMIT_AUDIT_PATH"
    code = SecurityConfig.load(
        path, env, audit_path="c.db", log_level="warning", memory_budget="unlimited", state_dir=None
    )
    assert (code.audit.path, code.monitoring.level) == (elsewhere / "c.db", "warning")
    assert (code.memory_budget, code.state_dir) == (UNLIMITED, Path("/e/state"))
    assert code.source("audit.path") == "code"
    # none of these is authority
    assert code.policy_hash == file.policy_hash


def test_the_file_is_found(elsewhere: Path, env: dict[str, str]) -> None:
    assert SecurityConfig.load(env=env).path is None
    named = written(elsewhere, '{"version": 1}', "other.json")
    assert SecurityConfig.load(env=env | {"REMIT_CONFIG": str(named)}).path == named
    written(elsewhere, "version = 1", "remit.toml")
    assert SecurityConfig.load(env=env).path == elsewhere / "remit.toml"
    written(elsewhere, "version: 1")
    with pytest.raises(PolicyError, match=r"`remit.yaml` and `remit.toml`"):
        SecurityConfig.load(env=env)
    with pytest.raises(PolicyError, match="no such file"):
        SecurityConfig.load("missing.yaml", env)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"REMIT_STATEDIR": "/a"}, "did you mean `REMIT_STATE_DIR`"),
        ({"REMIT_STATE_DIR": "a"}, "environment REMIT_STATE_DIR: `a` is not an absolute path"),
        ({"REMIT_LOG_LEVEL": "loud"}, "environment REMIT_LOG_LEVEL: unknown value"),
        ({"REMIT_MEMORY_BUDGET": "1G"}, "environment REMIT_MEMORY_BUDGET: memory_budget: unknown unit"),
        ({"REMIT_PERMISSIONS_ENABLED": "false"}, "unknown variable"),
    ],
)
def test_the_environment_is_strict_and_carries_no_authority(
    env: dict[str, str], variables: dict[str, str], told: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        SecurityConfig.from_mapping({}, env | variables)
    assert told in str(caught.value)


def test_code_settings_are_strict(env: dict[str, str]) -> None:
    with pytest.raises(PolicyError, match="did you mean `audit_path`"):
        SecurityConfig.from_mapping({}, env, audit_pth="/a")
    with pytest.raises(PolicyError, match="authority comes from the file"):
        SecurityConfig.from_mapping({}, env, permissions={"enabled": False})
    with pytest.raises(PolicyError, match="code log_level"):
        SecurityConfig.from_mapping({}, env, log_level="loud")


@pytest.fixture
def ceiling(elsewhere: Path, env: dict[str, str]) -> SecurityConfig:
    (elsewhere / "data" / "in").mkdir(parents=True)
    written(
        elsewhere,
        """\
rate_limiting: {messages: 50/1m, functions: 10/1m}
agents:
  agent-1:
    permissions: [basic_execution, "network:*.github.com", "file_system:read:data"]
    deny: ["network:evil.github.com"]
    limits: {memory: 128MiB}
    constraints: {timeout: 2s}
    rate_limits: {messages: 5/1m}
  agent-2:
    limits: {memory: 1GiB}
""",
    )
    return SecurityConfig.load(env=env)


def test_code_that_says_nothing_gets_what_the_file_gives(ceiling: SecurityConfig, elsewhere: Path) -> None:
    settings = ceiling.agent("agent-1")
    assert settings.policy.grants.as_text() == [
        "network:*.github.com",
        "basic_execution",
        f"file_system:read:{elsewhere}/data",
    ]
    assert (settings.limits.memory, settings.limits.cpu, settings.constraints.timeout) == (128 * 2**20, 1000, 2000)
    assert settings.rate_limits.messages == RateLimit(5, 60_000)
    assert settings.rate_limits.functions == RateLimit(10, 60_000)
    assert settings.rate_limits.default == RateLimit(100, 60_000)


def test_code_may_ask_for_less(ceiling: SecurityConfig, elsewhere: Path) -> None:
    settings = ceiling.agent(
        "agent-1",
        security={
            "permissions": ["basic_execution", "network:api.github.com:443", "file_system:read:data/in"],
            "deny": ["network:*:22"],
            "constraints": {"timeout": "1s"},
        },
        limits={"memory": "64MiB", "cpu": "9s"},
        rate_limits={"messages": "1/1m"},
        base=elsewhere,
    )
    assert settings.policy.grants.as_text() == [
        "network:api.github.com:443",
        "basic_execution",
        f"file_system:read:{elsewhere}/data/in",
    ]
    assert (settings.limits.memory, settings.limits.cpu, settings.constraints.timeout) == (64 * 2**20, 9000, 1000)
    assert settings.rate_limits.messages == RateLimit(1, 60_000)


def test_the_denies_of_the_file_stay(ceiling: SecurityConfig) -> None:
    grants = ceiling.agent("agent-1", security={"permissions": ["network:*.github.com"]}).policy.grants
    assert grants.allows(access("network", {"host": "api.github.com", "port": 443}))
    assert not grants.allows(access("network", {"host": "evil.github.com", "port": 443}))


@pytest.mark.parametrize(
    "asked",
    [
        {"security": {"permissions": ["basic_execution", "network:example.com"]}},
        {"security": {"permissions": ["network"]}},
        {"security": {"permissions": ["file_system:write:/usr"]}},
        {"security": {"permissions": ["env"]}},
        {"security": {"constraints": {"timeout": "3s"}}},
        {"limits": {"memory": "256MiB"}},
        {"limits": {"memory": "unlimited"}},
        {"rate_limits": {"messages": "6/1m"}},
        {"rate_limits": {"functions": "11/1m"}},
    ],
)
def test_code_that_asks_for_more_is_an_error_that_names_both_places(
    ceiling: SecurityConfig, asked: dict[str, Any]
) -> None:
    with pytest.raises(PolicyError) as caught:
        ceiling.agent("agent-1", **asked)
    assert str(caught.value).startswith("agent `agent-1` ")
    assert "remit.yaml" in str(caught.value)


def test_an_agent_that_the_file_does_not_list_gets_the_default(ceiling: SecurityConfig) -> None:
    assert ceiling.agent("stranger").policy.grants.as_text() == ["basic_execution"]
    assert ceiling.agent("agent-2").policy.grants.as_text() == ["basic_execution"]
    with pytest.raises(PolicyError, match="lists no agent `stranger`"):
        ceiling.agent("stranger", security={"permissions": ["basic_execution", "llm"]})


def test_without_agents_in_the_file_code_decides(env: dict[str, str]) -> None:
    config = SecurityConfig.from_mapping({"rate_limiting": {"default": "7/1m"}}, env)
    settings = config.agent(
        "a", security={"permissions": ["llm"], "deny": ["llm:x*"], "require": ["g"]}, limits={"cpu": "9h"}
    )
    assert settings.policy.grants.as_text() == ["llm"]
    assert settings.require == ("g",)
    assert settings.rate_limits.default == RateLimit(7, 60_000)
    assert not settings.policy.grants.allows(access("llm", {"model": "x1"}))
    for text, told in (
        ("env", "without a scope"),
        ("netwrok", r"agent `a` permissions\[0\]"),
        ("file_system:read:x", "relative"),
    ):
        with pytest.raises(PolicyError, match=told):
            config.agent("a", security={"permissions": [text]})


def test_a_path_that_is_not_there_is_an_error_at_load(elsewhere: Path, env: dict[str, str]) -> None:
    written(elsewhere, "agents:\n  a:\n    permissions: ['file_system:read:missing']\n")
    with pytest.raises(PolicyError, match=r"remit.yaml:2:3: .*missing` .* cannot be resolved"):
        SecurityConfig.load(env=env)


@pytest.mark.parametrize(
    "target", [".", "remit.yaml", "logs", "home/.local/state/remit", "home", "home/.local/state/remit/keys"]
)
def test_no_agent_may_write_to_what_holds_it(elsewhere: Path, env: dict[str, str], target: str) -> None:
    path = (
        Path(env["HOME"], target.removeprefix("home").lstrip("/")) if target.startswith("home") else elsewhere / target
    )
    if target != "remit.yaml":
        path.mkdir(parents=True, exist_ok=True)
    written(
        elsewhere, f"audit: {{path: logs/trail.db}}\nagents:\n  a:\n    permissions: ['file_system:write:{path}']\n"
    )
    with pytest.raises(PolicyError, match="which holds it"):
        SecurityConfig.load(env=env)


def test_through_a_symlink_neither(elsewhere: Path, env: dict[str, str]) -> None:
    (elsewhere / "real").mkdir()
    (elsewhere / "link").symlink_to("real")
    written(elsewhere, "audit: {path: link/trail.db}\nagents:\n  a:\n    permissions: ['file_system:write:real']\n")
    with pytest.raises(PolicyError, match="which holds it"):
        SecurityConfig.load(env=env)


def test_reading_it_is_no_harm_and_a_deny_is_enough(elsewhere: Path, env: dict[str, str]) -> None:
    (elsewhere / "out").mkdir()
    written(elsewhere, "agents:\n  a:\n    permissions: ['file_system:read:.', 'file_system:write:out']\n")
    assert SecurityConfig.load(env=env).path
    written(
        elsewhere,
        "agents:\n  a:\n    permissions: ['file_system:write:.']\n    deny: ['file_system:write:remit.yaml']\n",
    )
    assert SecurityConfig.load(env=env).path


def test_switching_off_is_spelled_out(env: dict[str, str]) -> None:
    with pytest.raises(PolicyError, match="i_accept_no_enforcement"):
        SecurityConfig.from_mapping({"permissions": {"enabled": False}}, env)
    config = SecurityConfig.from_mapping({"permissions": {"enabled": False, "iAcceptNoEnforcement": "a trial"}}, env)
    assert not config.agent("a").policy.enforced
    assert config.permissions.i_accept_no_enforcement == "a trial"


def test_the_hash_is_of_the_authority(elsewhere: Path, env: dict[str, str]) -> None:
    base = {"agents": {"a": {"permissions": ["basic_execution", "llm:x"], "limits": {"memory": "1MiB"}}}}
    same = {"agents": {"a": {"limits": {"memory": 2**20}, "permissions": ["llm:x", "basic_execution"]}}, "version": 1}
    first = SecurityConfig.from_mapping(base, env).policy_hash
    assert len(first) == 64
    assert SecurityConfig.from_mapping(same, env).policy_hash == first
    others = [
        {"agents": {"a": {"permissions": ["basic_execution"], "limits": {"memory": "1MiB"}}}},
        {"agents": {"a": {**base["agents"]["a"], "deny": ["env"]}}},
        {"agents": {"a": {**base["agents"]["a"], "limits": {"memory": "2MiB"}}}},
        {**base, "validation": {"max_size": "2MiB"}},
        {**base, "rate_limiting": {"enabled": False}},
        {**base, "permissions": {"restricted": ["env"]}},
        {},
        {"agents": {}},
    ]
    hashes = {SecurityConfig.from_mapping(other, env).policy_hash for other in others}
    assert len(hashes) == len(others)
    assert first not in hashes


def test_the_state_folder_by_default(env: dict[str, str], tmp_path: Path) -> None:
    assert default_state_dir(env) == Path(env["HOME"], ".local/state/remit")
    assert default_state_dir(env | {"XDG_STATE_HOME": "/x"}) == Path("/x/remit")
    assert default_state_dir(env | {"XDG_STATE_HOME": "relative"}) == Path(env["HOME"], ".local/state/remit")
    assert default_state_dir(env | {"REMIT_STATE_DIR": "/s/../t"}) == Path("/t")
    private = Path(f"/tmp/remit-{os.geteuid()}")
    for home in ({}, {"HOME": ""}, {"HOME": "relative"}, {"HOME": str(tmp_path / "missing")}):
        assert default_state_dir(home) == private
    with pytest.raises(PolicyError):
        default_state_dir({"REMIT_STATE_DIR": "relative"})
    assert default_state_dir() == Path(host_environment()["REMIT_STATE_DIR"])


def test_the_state_folder_is_private_or_refused(tmp_path: Path) -> None:
    made = prepare_state_dir(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert prepare_state_dir(made) == made
    made.chmod(0o755)
    with pytest.raises(PolicyError, match="others may use"):
        prepare_state_dir(made)
    made.chmod(0o700)
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(PolicyError, match="is not a folder"):
        prepare_state_dir(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="cannot be made"):
        prepare_state_dir(tmp_path / "file" / "beneath")
    if os.geteuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 65534, 65534)
        with pytest.raises(PolicyError, match="belongs to uid 65534"):
            prepare_state_dir(foreign)


def test_the_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_NAME", "value")
    copy = host_environment()
    assert copy["A_NAME"] == "value"
    copy["A_NAME"] = "other"
    assert host_environment()["A_NAME"] == "value"
