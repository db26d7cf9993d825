"""What decides an agent's next step."""

from __future__ import annotations

import pytest

from remit import Reply, ScriptedModel, ToolRequest
from remit.agent.models import as_model
from remit.errors import RemitError

pytestmark = pytest.mark.anyio


async def test_a_script_is_told_step_by_step_and_then_ends():
    model = ScriptedModel(["a", ToolRequest("f", {"x": 1}), Reply("b"), lambda messages: f"saw {len(messages)}"])
    assert await model.respond([], []) == Reply("a")
    assert await model.respond([], []) == Reply(calls=(ToolRequest("f", {"x": 1}),))
    assert await model.respond([], []) == Reply("b")
    assert await model.respond([1, 2], []) == Reply("saw 2")
    with pytest.raises(RemitError, match="4 steps") as caught:
        await model.respond([], [])
    assert caught.value.remedy


async def test_a_function_is_a_model_sync_or_async():
    async def slow(messages, tools):
        return Reply("slow")

    assert await as_model(lambda messages, tools: "fast").respond([], []) == Reply("fast")
    assert await as_model(slow).respond([], []) == Reply("slow")


@pytest.mark.parametrize("answer", [None, 3, ["x"]])
async def test_what_is_no_answer_is_an_error(answer):
    with pytest.raises(RemitError, match="answered with"):
        await as_model(lambda messages, tools: answer).respond([], [])


def test_a_model_is_itself():
    model = ScriptedModel([])
    assert as_model(model) is model
