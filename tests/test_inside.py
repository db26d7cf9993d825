"""What `import remit` is inside a jail: decorators give the plain function, the rest bears what a module's top does."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import remit
from remit import errors, inside

# The module changes the `remit` of the process that it prepares: each look at it is a process of its own.
PRELUDE = """
import sys
import remit.inside
remit.inside.prepare()
import remit
"""


def jail(body):
    """Run `body` in a process where `remit` is what it is inside a jail."""
    program = PRELUDE + textwrap.dedent(body)
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_decorators_give_the_plain_function():
    assert jail(
        """
        from remit import ConversableAgent, Security, function, sandboxed
        agent = ConversableAgent("a", security=Security(permissions=["basic_execution"]))
        def f(): return 1
        assert remit.function(f) is f
        assert remit.function(permissions=["basic_execution"])(f) is f
        assert agent.function(f) is f
        assert agent.function(name="x", timeout="2s")(f) is f
        assert sandboxed(f) is f
        print("fine")
        """
    )


def test_the_top_of_a_module_bears_it():
    assert (
        jail(
            """
        from remit import *
        from remit.model.limits import Limits as Other
        import remit.agent.conversable as deep
        limits: Limits | None = Limits(memory="64MiB", cpu="1s")
        union = Limits | Other | None
        union = None | Limits
        agent = ConversableAgent(name="a", functions=[], limits=limits)
        agent.register_function(name="x", handler=print)
        for tool in agent.tools:
            raise AssertionError(tool)
        with agent.anything() as entered:
            entered.something["x"].more()
        agent.run_sync("task")
        class Mine(ConversableAgent):
            def __init__(self):
                super().__init__("mine", functions=[])
        mine = Mine()
        mine.register_function("x", print)
        assert not isinstance(3, ConversableAgent)
        assert deep.ConversableAgent
        assert "inert" in repr(agent)
        """
        )
        == ""
    )


def test_errors_are_classes_and_the_same_ones_from_everywhere():
    assert (
        jail(
            """
        from remit import Denied, RemitError
        from remit.errors import Denied as Again
        assert Denied is Again is remit.Denied
        assert issubclass(Denied, RemitError) and issubclass(RemitError, Exception)
        class Mine(RemitError):
            pass
        try:
            raise Mine("x")
        except remit.Denied:
            raise AssertionError
        except remit.RemitError as error:
            print(error)
        """
        )
        == "x\n"
    )


def test_every_error_has_its_class_there():
    assert set(inside._ERRORS.split()) == set(errors.__all__)
    assert set(inside._ERRORS.split()) <= set(remit.__all__)


def test_awaiting_what_is_not_there_says_so():
    jail(
        """
        import asyncio
        async def main():
            try:
                await remit.ConversableAgent("a").call("x")
            except TypeError as error:
                assert "await" in str(error)
            else:
                raise AssertionError
        asyncio.run(main())
        """
    )


def test_nothing_heavy_is_pulled_in():
    assert (
        jail(
            """
        for name in ("pydantic", "cloudpickle", "asyncio", "typing", "remit.monitor", "remit.errors"):
            assert name not in sys.modules, name
        """
        )
        == ""
    )


@pytest.mark.parametrize(
    ("annotation", "text"),
    [(int, "int"), ("list[int]", "list[int]"), (list[int], "list[int]"), (int | None, "int | None")],
)
def test_a_signature_is_told_as_plain_data(annotation, text):
    def function(x, *rest, y=1, **more):
        """What it does."""

    function.__annotations__ = {"x": annotation}
    told = inside.describe(function)
    assert told["name"] == "function"
    assert told["doc"] == "What it does."
    assert [p["name"] for p in told["parameters"]] == ["x", "rest", "y", "more"]
    assert [p["required"] for p in told["parameters"]] == [True, False, False, False]
    assert [p["kind"] for p in told["parameters"]] == [
        "positional_or_keyword",
        "var_positional",
        "keyword_only",
        "var_keyword",
    ]
    assert told["parameters"][0]["annotation"] == text


def test_here_is_not_inside():
    assert not inside.is_inside()
