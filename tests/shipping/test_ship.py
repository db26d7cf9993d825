"""How a function gets into a jail, and what comes back."""

from __future__ import annotations

import functools
import json

import pytest

import remit
from remit.errors import FunctionRaised, PolicyError
from remit.shipping import from_source, program, ship
from tests.live import run, unique

pytestmark = pytest.mark.anyio

OFFSET = 40


def top(x: int) -> int:
    return helper(x) + OFFSET


def helper(x: int) -> int:
    return x + 1


async def slow(x: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return x * 2


class Tools:
    factor = 3

    @staticmethod
    def static(x: int) -> int:
        return x * 3

    @classmethod
    def of_class(cls, x: int) -> int:
        return x * cls.factor

    def method(self, x: int) -> int:
        return x


class Adder:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, x: int) -> int:
        return x + self.offset


def numbers():
    yield 1


async def more_numbers():
    yield 1


def twice(function):
    @functools.wraps(function)
    def outer(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return outer


@twice
def decorated(x: int) -> int:
    return x


def test_a_function_of_a_module_goes_by_reference():
    shipped = ship(top)
    assert (shipped.how, shipped.code.kind, shipped.code.attribute) == ("reference", "module", "top")
    assert __file__ in {file for file, _, _ in shipped.code.sources.values()}


def test_an_installed_modules_function_needs_no_source():
    assert ship(json.dumps).code.sources == {}


def test_by_value_where_asked():
    assert ship(top, "value").how == "value"


@pytest.mark.parametrize("function", [lambda: 1, functools.partial(top, 1), Adder(1)])
def test_what_has_no_name_goes_by_value(function):
    assert ship(function).how == "value"
    with pytest.raises(PolicyError, match="imported by name"):
        ship(function, "reference")


def test_a_name_that_means_something_else_by_now_is_not_gone_by():
    other = functools.wraps(top)(lambda x: x)
    assert ship(other).how == "value"


def test_a_program_is_a_program():
    assert program().code.kind == "program"


async def called(function, *args, **options):
    agent = remit.ConversableAgent(unique())
    return await agent.register_function("f", function, **options)(*args)


@pytest.mark.parametrize("how", ["auto", "value"])
async def test_it_runs_with_what_it_needs(how):
    assert await called(top, 1, ship=how) == 42
    assert await called(slow, 4, ship=how) == 8


async def test_closures_lambdas_partials_objects_and_static_methods():
    offset = 5

    def nested(x: int) -> int:
        def inner() -> int:
            return x + offset

        return inner()

    assert await called(nested, 1) == 6
    assert await called(lambda x: x + offset, 2) == 7
    assert await called(functools.partial(top), 1) == 42
    assert await called(Adder(2), 1) == 3
    assert await called(Tools.static, 2) == 6
    assert await called(Tools.of_class, 2) == 6


@pytest.mark.parametrize("how", ["auto", "value"])
async def test_a_decorator_of_ones_own_runs_in_the_jail_too(how):
    assert await called(decorated, 4, ship=how) == 8


async def test_a_function_that_calls_a_decorated_one():
    @remit.function
    def inner(x: int) -> int:
        return x + 1

    @remit.sandboxed
    def other(x: int) -> int:
        return x * 10

    assert await called(lambda x: inner(x) + other(x), 1) == 12


def test_a_method_is_refused_with_what_to_do():
    with pytest.raises(PolicyError, match="is a method") as caught:
        ship(Tools().method)
    assert "arguments" in caught.value.remedy


def test_a_marked_method_is_refused_too():
    class Service:
        @remit.function
        def work(self, x: int) -> int:
            return x

    with pytest.raises(PolicyError, match="is a method"):
        Service().work(1)


@pytest.mark.parametrize("function", [numbers, more_numbers])
def test_a_generator_is_refused_with_what_to_do(function):
    with pytest.raises(PolicyError, match="generator") as caught:
        remit.function(function)
    assert "list" in caught.value.remedy


def test_what_cannot_be_called_is_refused():
    with pytest.raises(PolicyError, match="cannot be called"):
        remit.ConversableAgent(unique()).register_function("f", 3)


async def test_source_text_is_only_ever_run_in_a_jail(tmp_path):
    touched = tmp_path / "touched"
    text = (
        f"import os, sys\nfor here in [{str(touched)!r}]:\n    try: open(here, 'w').close()\n    except OSError: pass\n"
    )
    text += "def f(x: int) -> int:\n    return x + 1\n"
    shipped = from_source(text, "f")
    assert not touched.exists()
    assert shipped.code.describe
    with pytest.raises(FunctionRaised):
        await remit.runtime.active_runtime().describe(unique(), from_source("raise ValueError(1)", "f"))
    described = await remit.runtime.active_runtime().describe(unique(), shipped)
    assert [parameter["name"] for parameter in described["parameters"]] == ["x"]
    assert not touched.exists()


MAIN = '''
    import asyncio
    import remit
    from remit import ConversableAgent, Security
    import beside

    FACTOR = 3

    @remit.function(permissions=["basic_execution"])
    def scaled(x: int) -> int:
        """Scale."""
        import lazily
        return x * FACTOR + beside.ONE + lazily.TEN

    agent = ConversableAgent(name="agent-1", functions=[scaled])

    @agent.function
    def squared(x: int) -> int:
        return scaled(x) ** 2

    async def main() -> None:
        print(await agent.call("scaled", x=2), await scaled(3), await agent.call("squared", x=0))

    if __name__ == "__main__":
        asyncio.run(main())
'''


def test_a_program_of_one_file(tmp_path):
    (tmp_path / "beside.py").write_text("ONE = 1\n", encoding="utf-8")
    (tmp_path / "lazily.py").write_text("TEN = 10\n", encoding="utf-8")
    assert run(tmp_path, MAIN).split() == ["17", "20", "121"]


PACKAGE = """
    import asyncio
    from pack.tools import agent, work, peek

    async def main() -> None:
        print(await work(1), await agent.call("work", x=2), await agent.call("renamed", x=3))
        outcome = await peek.outcome()
        print(outcome.status, outcome.what)

    if __name__ == "__main__":
        asyncio.run(main())
"""
TOOLS = '''
from __future__ import annotations
import os
import remit
from remit import ConversableAgent, Denied, Limits, RemitError, Security
from remit.errors import PolicyError
from . import near
from .sub.far import FAR
from .near import twice as doubled

class OurError(RemitError):
    """A class of our own."""

class OurAgent(ConversableAgent):
    """Another."""

limits: Limits | None = Limits(memory="64MiB")
agent = OurAgent("in-package", limits=limits, security=Security(permissions=["basic_execution"]))
for tool in agent.tools:
    print(tool)

@remit.function(permissions=["basic_execution"])
def work(x: int) -> int:
    from .later import LATER
    try:
        raise OurError("x")
    except Denied:
        return -1
    except RemitError:
        return doubled(x) + near.NEAR + FAR + LATER

@agent.function(name="renamed", timeout="2s")
def other(x: int) -> int:
    return x

@remit.function
def peek() -> str:
    with open(os.path.join(os.path.dirname(__file__), ".env")) as file:
        return file.read()

agent.register_function("work", work)
'''


def test_a_package_that_builds_its_agent_when_it_is_imported(tmp_path):
    pack = tmp_path / "pack"
    (pack / "sub").mkdir(parents=True)
    (pack / "__init__.py").write_text("", encoding="utf-8")
    (pack / "tools.py").write_text(TOOLS, encoding="utf-8")
    (pack / "near.py").write_text("NEAR = 10\n\ndef twice(x):\n    return 2 * x\n", encoding="utf-8")
    (pack / "later.py").write_text("LATER = 1000\n", encoding="utf-8")
    (pack / "sub" / "far.py").write_text("from ..near import NEAR\nFAR = NEAR * 10\n", encoding="utf-8")
    (pack / ".env").write_text("TOKEN=secret\n", encoding="utf-8")
    out = run(tmp_path, PACKAGE)
    assert out.split()[:3] == ["1112", "1114", "3"]
    assert "secret" not in out
    assert "denied file_system:read:" in out  # the `.env` beside the module is not readable
