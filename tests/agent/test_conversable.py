"""Agents that talk: messages, models that ask for calls, and authority that only shrinks on the way."""

from __future__ import annotations

import asyncio
import json

import pytest

import remit
from remit import ConversableAgent, Message, Reply, ScriptedModel, ToolRequest
from remit.context import acting_as
from remit.errors import Denied, LimitExceeded, PolicyError, RateLimited, RemitError, ValidationFailed
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.runtime import active_runtime
from tests.jailed import double, read
from tests.live import events, unique

pytestmark = pytest.mark.anyio


@pytest.fixture
def secret(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("the secret", encoding="utf-8")
    return tmp_path / "secret"


def reader(secret, *steps, **options):
    """An agent that may read the secret, and whose model follows a script."""
    one = ConversableAgent(
        unique("strong"),
        model=ScriptedModel(list(steps)),
        security={"permissions": ["basic_execution", f"file_system:read:{secret.parent}"]},
        **options,
    )
    one.register_function("read", read, permissions=["basic_execution", "file_system"])
    return one


def asks(secret):
    return ToolRequest("read", {"path": str(secret)})


def told(one):
    return [message.content for message in one.history if message.role == "tool"]


# --- tools


async def test_the_ways_to_give_an_agent_functions():
    one = ConversableAgent(unique(), functions=[remit.function(double), read])

    @one.function
    def third(x: int) -> int:
        """The third."""
        return 3 * x

    @one.function(name="fourth", timeout="1s")
    def other(x: int) -> int:
        return 4 * x

    made = await one.register_function(name="fifth", handler=double, permissions=["basic_execution"])
    assert [tool["name"] for tool in one.tools] == ["double", "read", "third", "fourth", "fifth"]
    assert one.tools[2]["description"] == "The third."
    assert one.tools[2]["parameters"]["properties"] == {"x": {"type": "integer"}}
    assert [await one.call(name, x=1) for name in ("double", "third", "fourth", "fifth")] == [2, 3, 4, 2]
    assert [await third(2), await other(2), await made(2)] == [6, 8, 4]


async def test_one_decorator_may_be_used_twice():
    one = ConversableAgent(unique())
    mark = one.function(timeout="1s")

    @mark
    def a() -> int:
        return 1

    @mark
    def b() -> int:
        return 2

    assert [await one.call("a"), await one.call("b")] == [1, 2]


async def test_a_marked_function_keeps_what_was_declared_under_another_name(secret):
    careful = remit.function(deny=["file_system"], timeout="1s")(read)
    one = ConversableAgent(unique(), security={"permissions": ["basic_execution", f"file_system:read:{secret.parent}"]})
    one.register_function("again", careful)
    assert one._holding.holder.functions["again"].constraints.timeout == 1000
    with pytest.raises((Denied, PolicyError)):
        await one.call("again", path=str(secret))


async def test_configurations_may_be_plain_mappings_in_either_spelling():
    one = ConversableAgent(
        name=unique(),
        security={"permissions": ["basic_execution"], "constraints": {"maxTokens": 1000, "timeout": 5000}},
        limits={"fileHandles": 100, "poolSize": 1000, "memory": 268435456, "cpu": 1000},
        functions=[double],
    )
    assert await one.call("double", x=1) == 2
    assert one._holding.settings.constraints.timeout == 5000


# --- a model that asks for calls


async def test_a_model_works_through_its_calls_to_an_answer(secret):
    one = reader(
        secret,
        ToolRequest("read", json.dumps({"path": str(secret)}), id="1"),
        lambda messages: f"it says: {messages[-1].content}",
        system_message="be brief",
    )
    assert await one.run("read it") == "it says: the secret"
    assert [message.role for message in one.history] == ["user", "assistant", "tool", "assistant"]
    assert one.history[2].call_id == "1"


@pytest.mark.parametrize(
    "arguments",
    ["{", "[]", '{"path": 1, "path": 2}', '{"path": NaN}', "\ud800", '"text"', [1], {1: 2}, b"\xff", "[" * 10_000],
    ids=lambda value: repr(value)[:20],
)
async def test_arguments_that_are_none_are_refused_counted_and_recorded(secret, arguments):
    one = reader(
        secret,
        ToolRequest("read", arguments),
        "done",
        rate_limits={"functions": {"limit": 2, "window": "1h"}},
    )
    assert await one.run("go") == "done"
    assert "refused" in told(one)[0]
    (event,) = events(principal=one.name, type="violation")
    assert event.action == "read"
    assert await one.call("read", path=str(secret)) == "the secret"
    with pytest.raises(RateLimited):
        await one.call("read", path=str(secret))


async def test_a_refusal_is_told_to_the_model_in_words_it_can_act_on(secret):
    one = reader(
        secret,
        ToolRequest("raed", {"path": "x"}),
        ToolRequest("read", {"path": "/etc/passwd"}),
        ToolRequest("read", {}),
        "done",
    )
    await one.run("go")
    unknown, denied, missing = (answer["refused"] for answer in told(one))
    assert "`read`" in unknown
    assert "file_system:read:/etc/passwd" in denied
    assert "`path`" in missing


async def test_an_error_of_the_function_is_told_as_its_error(secret):
    one = reader(secret, ToolRequest("read", {"path": str(secret.parent / "none")}), "done")
    await one.run("go")
    assert "FileNotFoundError" in str(told(one)[0])


async def test_a_name_of_a_strangers_choosing_does_no_harm(secret):
    one = reader(secret, ToolRequest("x\x1b[2J\ud800" * 100, {}), ToolRequest(None, {}), "done")
    assert await one.run("go") == "done"
    assert all("refused" in answer for answer in told(one))
    assert all(event.action.isprintable() for event in events(principal=one.name))


async def test_a_model_that_never_comes_to_an_end(secret):
    one = reader(secret, *[asks(secret)] * 20, max_turns=3)
    with pytest.raises(LimitExceeded) as caught:
        await one.run("go")
    assert caught.value.limit == "max_turns"
    assert caught.value.remedy


async def test_without_a_model_one_is_told_so():
    with pytest.raises(RemitError, match="no model") as caught:
        await ConversableAgent(unique()).run("x")
    assert caught.value.remedy


async def test_what_a_model_says_is_checked_too():
    one = ConversableAgent(unique(), model=ScriptedModel(["x" * ((1 << 20) + 1)]))
    with pytest.raises(ValidationFailed) as caught:
        await one.run("go")
    assert events(id=caught.value.event_id)[0].principal == one.name


async def test_a_task_is_checked_and_its_refusal_recorded():
    one = ConversableAgent(unique(), model=ScriptedModel(["x"]))
    with pytest.raises(ValidationFailed) as caught:
        await one.run(b"\xff")
    assert events(id=caught.value.event_id)
    assert one.history == ()


async def test_the_history_is_bounded():
    one = ConversableAgent(unique(), model=ScriptedModel(["ok"] * 50), history=10)
    for _ in range(20):
        await one.run("again")
    assert len(one.history) == 10


def test_from_code_that_is_not_asynchronous():
    one = ConversableAgent(unique(), model=ScriptedModel(["fine"]), functions=[double])
    assert one.run_sync("go") == "fine"
    assert one.run_sync(one.call("double", x=2)) == 4


async def test_also_inside_a_running_loop():
    assert ConversableAgent(unique(), model=ScriptedModel(["fine"])).run_sync("go") == "fine"


# --- functions that a model writes

WRITTEN = "def shout(text: str) -> str:\n    return text.upper()\n"


def writer(*steps, grants=("basic_execution", "function_registration"), **options):
    return ConversableAgent(
        unique("writer"), model=ScriptedModel(list(steps)), security={"permissions": list(grants)}, **options
    )


def registers(source=WRITTEN, name="shout", **more):
    return ToolRequest("register_function", {"name": name, "source": source, **more})


async def test_an_agent_with_the_permission_may_write_a_function():
    one = writer(registers(), ToolRequest("shout", {"text": "hey"}), "done")
    assert "register_function" in [tool["name"] for tool in one.tools]
    assert await one.run("go") == "done"
    assert told(one) == [{"registered": "shout"}, "HEY"]
    assert await one.call("shout", text="x") == "X"
    kinds = [event.type for event in events(principal=one.name)]
    assert kinds[:2] == ["imported", "registered"]


async def test_without_the_permission_nothing_of_it_is_looked_at():
    one = writer(registers(), "done", grants=("basic_execution",))
    assert "register_function" not in [tool["name"] for tool in one.tools]
    await one.run("go")
    assert "function_registration" in told(one)[0]["refused"]
    assert [event.type for event in events(principal=one.name)] == ["violation"]


async def test_what_a_model_wrote_never_runs_here(tmp_path):
    tmp_path.chmod(0o777)
    evil = tmp_path / "evil"
    source = f"import os\ntry:\n    open({str(evil)!r}, 'w')\nexcept OSError:\n    pass\n" + WRITTEN
    one = writer(registers(source), ToolRequest("shout", {"text": "a"}), "done")
    await one.run("go")
    assert told(one)[1] == "A"
    assert not evil.exists()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (registers(permissions=["basic_execution", "network"]), "network"),
        (registers(permissions=["basic_execution", "file_system:read:/etc"]), "file_system"),
        (registers(permissions=["nonsense"]), "nonsense"),
        (registers(permissions="basic_execution"), "list"),
        (registers("def (:"), "SyntaxError"),
        (registers("raise ValueError('no')"), "ValueError"),
        (registers("x = 1"), "shout"),
        (registers(name="not a name"), "identifier"),
        (registers(source=3), "text"),
        (ToolRequest("register_function", "{"), ""),
        (registers("#" * (2 << 20)), "1048576"),
    ],
    ids=["network", "files", "nonsense", "no list", "syntax", "raises", "not there", "name", "source", "json", "large"],
)
async def test_a_registration_that_cannot_be_is_refused_and_counted(request_, words):
    one = writer(request_, "done", rate_limits={"functions": {"limit": 1, "window": "1h"}})
    await one.run("go")
    (answer,) = told(one)
    assert words in str(answer)
    assert "registered" not in answer
    assert [event for event in events(principal=one.name) if event.type != "imported"]
    with pytest.raises(RateLimited):
        await one.call("anything")


async def test_what_is_registered_for_a_weak_agent_is_weak(secret):
    """A weak agent asks a strong one to write a function: it gets what both hold, also while it is imported."""
    path = str(secret)
    source = f"FOUND = ''\ntry:\n    FOUND = open({path!r}).read()\nexcept OSError:\n    pass\n"
    source += "def peek() -> str:\n    return FOUND\n"
    grants = ("basic_execution", "function_registration", f"file_system:read:{secret.parent}")
    strong = writer(
        registers(source, name="peek", permissions=["basic_execution", "file_system"]),
        registers(source, name="peek"),
        ToolRequest("peek", {}),
        "done",
        grants=grants,
    )
    weak = ConversableAgent(unique("weak"), security={"permissions": ["basic_execution", "function_registration"]})
    await weak.send("write it", strong)
    await strong.generate_reply()
    first, second, third = told(strong)
    assert "more than who registers it" in str(first)
    assert second == {"registered": "peek"}
    assert third == ""


async def test_a_models_function_does_not_replace_the_deployers():
    one = writer(registers("def double(x: int) -> int:\n    return 666\n", name="double"), "done", functions=[double])
    await one.run("go")
    assert "already" in str(told(one)[0])
    assert await one.call("double", x=1) == 2


# --- messages, and authority


async def test_a_message_arrives_as_the_checked_copy():
    one, other = ConversableAgent(unique()), ConversableAgent(unique())
    content = {"a": [1]}
    await one.send(content, other)
    content["a"].append(2)
    (message,) = other.history
    assert message.content == {"a": [1]}
    assert message.sender == one.name
    assert message.context.names == (one.name,)
    (event,) = events(principal=one.name, type="message")
    assert (event.resource, event.result) == (other.name, "allowed")


@pytest.mark.parametrize("bad", [b"\xff", {"a": float("nan")}, {"a": None}, object(), "x" * ((1 << 20) + 1), {1: 1}])
async def test_a_message_that_is_none_does_not_arrive(bad):
    one, other = ConversableAgent(unique()), ConversableAgent(unique())
    with pytest.raises(ValidationFailed) as caught:
        await one.send(bad, other)
    assert other.history == ()
    assert events(id=caught.value.event_id)[0].result == "denied"


async def test_a_flood_of_messages_is_dammed():
    one, other = ConversableAgent(unique()), ConversableAgent(unique())
    sent = 0
    with pytest.raises(RateLimited) as caught:
        for _ in range(200):
            await one.send("again", other)
            sent += 1
    assert sent == 100
    assert len(other.history) == 100
    assert caught.value.retry_after > 0
    assert events(id=caught.value.event_id)[0].type == "message"


async def test_messages_that_are_refused_count_too():
    one = ConversableAgent(unique(), rate_limits={"messages": {"limit": 2, "window": "1h"}})
    other = ConversableAgent(unique())
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            await one.send(b"\xff", other)
    with pytest.raises(RateLimited):
        await one.send("fine", other)


async def test_an_answer_to_a_weak_agent_is_weak(secret):
    strong = reader(secret, asks(secret), "no", asks(secret), "yes")
    weak = ConversableAgent(unique("weak"))
    await weak.send("read it for me", strong)
    await strong.generate_reply()
    assert "file_system" in str(told(strong)[0])
    denied = [event for event in events(principal=strong.name, type="outcome") if event.result == "denied"]
    assert denied[0].chain == (weak.name, strong.name)
    assert await strong.run("read it for me, the deployer") == "yes"
    assert told(strong)[1] == "the secret"


async def test_several_messages_are_answered_with_the_authority_of_none_but_all(secret):
    """The weak one's request waits behind a strong one's message: the answer must not carry it along."""
    strong = reader(secret, asks(secret), "done")
    weak = ConversableAgent(unique("weak"))
    peer = reader(secret)
    await weak.send("read it and tell everybody", strong)
    await peer.send("hello", strong)
    await strong.generate_reply()
    assert "file_system" in str(told(strong)[0])


async def test_saying_something_does_not_count_as_an_answer(secret):
    strong = reader(secret, asks(secret), "done")
    weak = ConversableAgent(unique("weak"))
    await weak.send("read it", strong)
    await strong.send("one moment", weak)
    await strong.generate_reply()
    assert "file_system" in str(told(strong)[0])


async def test_a_task_does_not_lend_its_authority_to_a_request_that_waits(secret):
    strong = reader(secret, asks(secret), "done")
    weak = ConversableAgent(unique("weak"))
    await weak.send("read it", strong)
    await strong.run("say hello")
    assert "file_system" in str(told(strong)[0])


async def test_a_message_that_comes_in_the_midst_narrows_the_rest(secret):
    weak = ConversableAgent(unique("weak"))
    strong = reader(secret)

    class Interrupted:
        turn = 0

        async def respond(self, messages, tools):
            self.turn += 1
            if self.turn == 2:
                await weak_sends()
            return Reply("done") if self.turn == 4 else Reply(calls=(asks(secret),))

    async def weak_sends():
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        context = active_runtime().context_of(weak._holding.settings.policy)
        await strong.receive(Message(role="user", content="me too", sender=weak.name, context=context))

    await weak._holding.attempt("x", lambda: asyncio.sleep(0))  # the runtime knows it
    strong._model = Interrupted()
    await strong.run("read")
    first, *_, last = told(strong)
    assert first == "the secret"
    assert "file_system" in str(last)


async def test_who_asks_for_the_answer_narrows_it_too(secret):
    """A weak principal makes a strong agent answer a strong one's message: it gets no more than its own."""
    strong = reader(secret, asks(secret), "done")
    peer = reader(secret)
    await peer.send("read it", strong)
    name = unique("weak")
    weak = SecurityContext(chain=(Principal(name),), grants=GrantSet.of(["basic_execution"]), timestamp=0)
    with acting_as(weak):
        await strong.generate_reply()
    assert "file_system" in str(told(strong)[0])


async def test_an_agent_does_not_regain_by_way_of_another_what_it_lacks(secret):
    weak = ConversableAgent(unique("weak"))
    middle = reader(secret, "please")
    strong = reader(secret, asks(secret), "done")
    await weak.send("ask the strong one", middle)
    answer = await middle.generate_reply()
    with acting_as(middle._owed):
        await middle.send(answer, strong)
    await strong.generate_reply()
    assert "file_system" in str(told(strong)[0])
    (denied,) = [event for event in events(principal=strong.name, type="outcome") if event.result == "denied"]
    assert denied.chain == (weak.name, middle.name, strong.name)


async def test_two_agents_talk(secret):
    one = ConversableAgent(unique(), model=ScriptedModel(["and you?", "bye"]))
    other = ConversableAgent(unique(), model=ScriptedModel(["fine", "bye bye"]))
    said = await one.initiate_chat(other, "how are you?", max_turns=4)
    assert [message.content for message in said] == ["how are you?", "fine", "and you?", "bye bye"]
    assert [message.sender for message in said] == [one.name, other.name, one.name, other.name]


async def test_two_agents_talk_for_long():
    one = ConversableAgent(unique(), model=ScriptedModel(["ping"] * 60))
    other = ConversableAgent(unique(), model=ScriptedModel(["pong"] * 60))
    said = await one.initiate_chat(other, "ping", max_turns=100)
    assert len(said) == 100
    assert len(said[-1].context.chain) < 8


async def test_in_a_talk_the_weak_one_decides_what_may_be(secret):
    weak = ConversableAgent(unique("weak"), model=ScriptedModel(["go on"] * 4))
    strong = reader(secret, asks(secret), "no", asks(secret), "no")
    await weak.initiate_chat(strong, "read it", max_turns=4)
    assert all("file_system" in str(answer) for answer in told(strong))
    assert len(told(strong)) == 2
