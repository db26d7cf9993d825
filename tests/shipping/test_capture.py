"""What travels by value is named; what must not travel is refused, wherever it hides."""

from __future__ import annotations

import functools
import io
import socket
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import remit
from remit.errors import PolicyError
from remit.shipping import plain, ship

TOKEN = "ghp_a-long-enough-token"
ENVIRONMENT = {"GITHUB_TOKEN": TOKEN[:], "TERM": "xterm-256color", "SHORT": "1234567"}


def value(function):
    return ship(function, "value", environment=ENVIRONMENT)


def refused(function, *words):
    with pytest.raises(PolicyError) as caught:
        value(function)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "ghp_" not in text  # a refusal does not tell the secret
    assert caught.value.remedy
    return caught.value


def secret():
    """The value, as another object than any literal."""
    return "".join(list(ENVIRONMENT["GITHUB_TOKEN"]))


def test_names_and_types_are_told():
    limit, names = 3, {"a": [1]}

    def function():
        return limit, names, io.StringIO

    takes = value(function).takes
    assert takes["limit"] == "builtins.int"
    assert takes["names"] == "builtins.dict"
    assert takes["io"] == "builtins.module"


def test_a_variables_value_in_a_cell():
    token = secret()
    refused(lambda: token, "`token`", "`GITHUB_TOKEN`", "env:GITHUB_TOKEN")


def test_a_variables_value_in_a_default():
    def function(token=secret()):  # noqa: B008  # that is the point
        return token

    refused(function, "`GITHUB_TOKEN`")


def test_a_variables_value_in_a_keyword_default():
    def function(*, token=secret()):  # noqa: B008
        return token

    refused(function, "`GITHUB_TOKEN`")


@pytest.mark.parametrize(
    "hidden",
    [
        lambda text: [{"deep": (text,)}],
        lambda text: {text: 1},
        lambda text: SimpleNamespace(token=text),
        lambda text: functools.partial(print, text),
        lambda text: text.encode(),
        lambda text: lambda: text,
        lambda text: [*range(20_000), text],
    ],
    ids=["containers", "a key", "an attribute", "a partial", "bytes", "a closure", "behind 20,000 others"],
)
def test_a_variables_value_wherever_it_hides(hidden):
    thing = hidden(secret())
    refused(lambda: thing, "`GITHUB_TOKEN`")


def test_a_variables_value_in_a_dataclass():
    @dataclass
    class Settings:
        token: str

    settings = Settings(secret())
    refused(lambda: settings, "`GITHUB_TOKEN`")


def test_a_variables_value_behind_a_decorator():
    token = secret()

    def decorate(function):
        @functools.wraps(function)
        def outer():
            return token, function()

        return outer

    @decorate
    def function():
        return 1

    refused(function, "`GITHUB_TOKEN`")


def test_a_variables_value_in_a_partial():
    refused(functools.partial(len, secret()), "`GITHUB_TOKEN`")


def test_a_variables_value_in_a_callable_object():
    class Caller:
        def __init__(self) -> None:
            self.token = secret()

        def __call__(self) -> object:
            return self.token

    refused(Caller(), "`GITHUB_TOKEN`")


def test_text_of_the_source_itself_is_no_secret():
    assert value(lambda: "xterm-256color").takes == {}


def test_but_the_same_text_from_elsewhere_is():
    terminal = "".join(list(ENVIRONMENT["TERM"]))
    refused(lambda: terminal, "`TERM`")


def test_short_values_stand_in_any_text():
    number = "".join(list(ENVIRONMENT["SHORT"]))
    assert value(lambda: number).takes == {"number": "builtins.str"}


class Client:
    """Named as those of http libraries and SDKs are."""


class SecretStr:
    """Named as pydantic's."""


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (io.StringIO(), ["_io.StringIO"]),
        (threading.Lock(), ["lock"]),
        (threading.RLock(), ["RLock"]),
        (threading.Event(), ["cannot"]),
        (Client(), ["Client"]),
        (SecretStr(), ["SecretStr", "secret"]),
        (SimpleNamespace(inner=threading.Lock()), ["lock"]),
        ([Client()], ["Client"]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_handles_clients_and_secrets_are_refused(thing, words):
    refused(lambda: thing, *words)


def test_an_open_file_and_a_socket_are_refused(tmp_path):
    with open(tmp_path / "x", "w", encoding="utf-8") as file:
        refused(lambda: file, "`file`", "TextIOWrapper")
    with socket.socket() as sock:
        refused(lambda: sock, "`sock`", "socket")


def test_an_agent_is_refused():
    agent = remit.ConversableAgent("captured-agent")
    refused(lambda: agent.name, "`agent`", "ConversableAgent")


def test_a_generator_is_refused():
    numbers = (number for number in range(3))
    refused(lambda: list(numbers), "generator")


def test_what_is_too_large_is_refused():
    data = bytes(17 << 20)
    refused(lambda: data, "bytes along")


def test_remits_own_decorators_are_looked_through_and_no_others():
    def inner():
        return 1

    @functools.wraps(inner)
    def outer():
        return 2

    assert plain(remit.function(outer)) is outer
    assert plain(remit.sandboxed(remit.function(outer))) is outer
    assert plain(outer) is outer


def test_an_object_that_answers_to_every_name_is_not_taken_for_remits():
    class Anything:
        def __getattr__(self, name) -> object:
            return self

        def __call__(self) -> object:
            return 1

    thing = Anything()
    assert plain(thing) is thing
