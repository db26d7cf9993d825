"""The sections of a policy file: each key, each mistake, each place."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from remit.errors import PolicyError
from remit.model.limits import Limits, RateLimit, RateLimits
from remit.model.permission import Grant, Permission
from remit.policy.document import Document, parse
from remit.policy.sections import PolicyFile, read

MISSION: dict[str, Any] = {
    "permissions": {"enabled": True, "default": ["basic_execution"], "restricted": ["file_system", "env"]},
    "validation": {"enabled": True, "maxSize": 1024 * 1024, "allowedTypes": ["string", "number", "boolean"]},
    "rateLimiting": {"enabled": True, "defaultLimit": 100, "defaultWindow": 60000},
    "monitoring": {"enabled": True, "logLevel": "info", "auditTrail": True},
}


def policy(text: str) -> PolicyFile:
    return read(parse(text, form="yaml", source="remit.yaml"), base=PurePosixPath("/srv"), home="/home/u")


def test_the_configuration_in_camel_case_is_the_default() -> None:
    loaded, default = read(Document(MISSION, "code")), read(Document({}, "code"))
    for section in ("permissions", "validation", "rate_limiting", "monitoring", "audit", "agents"):
        assert getattr(loaded, section) == getattr(default, section)
    assert loaded.rate_limiting.limits.given == {"default"}
    assert "rate_limiting.default_limit" in loaded.given
    assert loaded.given["monitoring.level"] == "code: monitoring.logLevel"


def test_each_key_is_read() -> None:
    file = policy(
        """\
version: 1
permissions: {enabled: false, i_accept_no_enforcement: trying it, default: [basic_execution, llm], restricted: [env]}
validation: {enabled: false, max_size: 2MiB, allowed_types: [string, "null"]}
rate_limiting: {enabled: false, messages: 5/1s, functions: {limit: 6, window: 1m}, default: unlimited}
monitoring: {enabled: false, level: debug, audit_trail: false, i_accept_no_audit: trying it}
audit: {path: trail.db, anchor: ~/anchor, fsync: all}
agents:
  agent-1:
    permissions: [basic_execution, "file_system:read:data"]
    deny: ["network:10.0.0.0/8"]
    constraints: {maxTokens: 5}
    limits: {fileHandles: 9}
    rateLimits: {messages: 1/1s}
  agent-2:
"""
    )
    assert not file.permissions.enabled
    assert file.permissions.default == (Grant.parse("basic_execution"), Grant.parse("llm"))
    assert file.permissions.restricted == (Permission.ENV,)
    assert (file.validation.enabled, file.validation.max_size) == (False, 2 << 20)
    assert file.validation.allowed_types == ("string", "null")
    assert file.rate_limiting.limits == RateLimits(messages="5/1s", functions="6/1m", default="unlimited")
    assert not file.rate_limiting.enabled
    assert (file.monitoring.enabled, file.monitoring.level, file.monitoring.audit_trail) == (False, "debug", False)
    assert (file.audit.path, file.audit.anchor, file.audit.fsync) == ("/srv/trail.db", "/home/u/anchor", "all")
    assert file.agents is not None
    one = file.agents["agent-1"]
    assert one.permissions == (Grant.parse("basic_execution"), Grant.parse("file_system:read:/srv/data"))
    assert one.deny == (Grant.parse("network:10.0.0.0/8"),)
    assert one.constraints.max_tokens == 5
    assert one.limits == Limits(file_handles=9)
    assert one.limits.given == {"file_handles"}
    assert one.rate_limits.messages == RateLimit(1, 1000)
    assert one.place == "remit.yaml:8:3"
    assert file.agents["agent-2"].permissions is None
    assert file.given["audit.path"] == "remit.yaml:6:9"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: 2", "remit.yaml:1:1: version `2` is not known"),
        ("version: true", "remit.yaml:1:1: version"),
        ("permisions: {}", "remit.yaml:1:1: unknown key `permisions`; did you mean `permissions`?"),
        ("permissions: []", "remit.yaml:1:1: this must be a mapping"),
        ("permissions: {enabled: 1}", "remit.yaml:1:15: `1` is neither true nor false"),
        ("permissions: {enabled: false}", "remit.yaml:1:15: `enabled: false` takes protection away"),
        ("permissions: {i_accept_no_enforcement: x}", "without effect"),
        ('permissions: {enabled: false, i_accept_no_enforcement: " "}', "is not a text"),
        ("permissions: {default: basic_execution}", "this must be a list"),
        ("permissions: {default: [basic_exec]}", "remit.yaml:1:25: unknown permission `basic_exec`; did you mean"),
        ("permissions: {default: [7]}", "remit.yaml:1:25: `7` is not a text"),
        ('permissions: {default: ["env:A"]}', "remit.yaml:1:15: `env:A` is restricted"),
        ("permissions: {restricted: [netwrok]}", "did you mean `network`"),
        ("validation: {max_size: 1.5}", "remit.yaml:1:14: max_size: a bare float"),
        ("validation: {max_size: unlimited}", "cannot be unlimited"),
        ("validation: {maxSize: 1, max_size: 2}", "remit.yaml:1:26: `max_size` is given twice"),
        ("validation: {allowed_types: [strng]}", "did you mean `string`"),
        ("rate_limiting: {messages: 100/5}", "remit.yaml:1:17: window: a bare `5` means 5 milliseconds"),
        ("rate_limiting: {default_limit: 5}", "belong together"),
        ("rate_limiting: {default: 1/1s, default_limit: 5, default_window: 1s}", "given twice"),
        ("rate_limiting: {default_limit: 5, default_window: unlimited}", "a window cannot be unlimited"),
        ("monitoring: {level: loud}", "remit.yaml:1:14: unknown value `loud`"),
        ("monitoring: {level: info, logLevel: info}", "given twice"),
        ("monitoring: {audit_trail: false}", "takes protection away"),
        ("monitoring: {i_accept_no_audit: x}", "without effect"),
        ("audit: {fsync: always}", "unknown value"),
        ("audit: {path: ~x/trail}", "another user's home"),
        ("agents: []", "this must be a mapping"),
        ('agents: {"a\\nb": {}}', "remit.yaml:1:10: `a\\nb` cannot be the name of a principal"),
        ("agents: {a: {permission: []}}", "did you mean `permissions`"),
        ("agents:\n  a:\n    deny: [netwrok]", "remit.yaml:3:12: unknown permission"),
        ("agents:\n  a:\n    limits:\n      cpu: 5", "remit.yaml:4:7: cpu: a bare `5` means 5 milliseconds"),
        ("agents:\n  a:\n    limits:\n      memroy: 5MiB", "remit.yaml:4:7: unknown key `memroy`"),
        ("agents: {a: {limits: {fileHandles: 9, file_handles: 9}}}", "given twice"),
        ("agents: {a: {limits: [cpu]}}", "must be a mapping"),
        ("agents: {a: {rate_limits: {messages: 100}}}", "is not a rate"),
    ],
)
def test_a_mistake_says_where_and_what_to_write(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(text)
    assert told in str(caught.value)
    assert str(caught.value).startswith("remit.yaml:")


def test_other_values_than_text_are_refused_in_a_mapping_of_code() -> None:
    for mapping in ({1: 2}, {"agents": {1: {}}}, {"agents": {"a": {1: 2}}}, {"validation": {"max_size": None}}):
        with pytest.raises(PolicyError):
            read(Document(mapping, "code"))
    with pytest.raises(PolicyError, match="relative"):
        read(Document({"audit": {"path": "trail.db"}}, "code"))


def test_empty_agents_are_not_no_agents() -> None:
    assert policy("agents:").agents == {}
    assert policy("version: 1").agents is None
