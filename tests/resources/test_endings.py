"""How a process ends, in real processes: what was cleaned up, and the exit status that a shell would see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from remit.monitoring import Emitter
from remit.resources import Endings, ResourceManager

resources = ResourceManager(Emitter())

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

async def asynchronous():
    await asyncio.sleep(0.01)
    say("async")

def begin():
    resources.register_resource("sync", "x", lambda: say("sync"))
    resources.register_resource("async", "x", asynchronous)

def ready():
    say("ready")

"""


def start(body, *, ignore=None):
    def before():
        if ignore is not None:
            signal.signal(ignore, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before,  # noqa: PLW1509  # this process has no other threads that hold locks
    )


def lines_until_ready(process):
    assert process.stdout.readline() == b"ready\n", process.stderr.read().decode()


def end(process, status):
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err.decode()
    return out.decode().split(), err.decode()


SYNC = """
    Endings(resources).install()
    begin()
    ready()
    while True:
        time.sleep(60)
"""
ASYNC = """
    async def main():
        Endings(resources).install()
        begin()
        ready()
        await asyncio.Event().wait()
    asyncio.run(main())
"""
WITH = """
    async def main():
        async with resources:
            Endings(resources).install()
            begin()
            ready()
            await asyncio.Event().wait()
    asyncio.run(main())
"""
IN_A_THREAD = """
    begin_on_loop = asyncio.new_event_loop()
    threading.Thread(target=begin_on_loop.run_forever, daemon=True).start()
    Endings(resources).install()
    async def on_loop():
        begin()
    asyncio.run_coroutine_threadsafe(on_loop(), begin_on_loop).result()
    ready()
    threading.Event().wait()
"""
BLOCKED = """
    async def main():
        Endings(resources, blocked_after=0.1).install()
        resources.register_resource("sync", "x", lambda: say("sync"))
        resources.register_resource("async", "x", asynchronous, "100ms")
        ready()
        while True:
            time.sleep(0.01)
    asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("body", [SYNC, ASYNC, WITH, IN_A_THREAD], ids=["sync", "async", "with", "thread"])
def test_a_signal_cleans_up_and_the_process_dies_of_it(body, number):
    process = start(body)
    lines_until_ready(process)
    process.send_signal(number)
    out, err = end(process, -number)
    assert out == ["async", "sync"]
    if number is not signal.SIGINT:
        assert err == ""
    else:
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "never retrieved" not in err


def test_a_blocked_loop_does_not_keep_the_process_from_ending():
    process = start(BLOCKED)
    lines_until_ready(process)
    process.send_signal(signal.SIGTERM)
    out, _ = end(process, -signal.SIGTERM)
    assert out == ["sync"]  # the async handler needs the loop that is blocked: given up at its deadline


@pytest.mark.parametrize(
    ("ending", "status"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError('mine')", 1)],
    ids=["return", "sys.exit", "exception"],
)
@pytest.mark.parametrize("form", ["sync", "async", "with"])
def test_the_end_of_the_program_cleans_up(form, ending, status):
    bodies = {
        "sync": f"""
            Endings(resources).install()
            begin()
            {ending}
        """,
        "async": f"""
            async def main():
                Endings(resources).install()
                begin()
                {ending}
            asyncio.run(main())
        """,
        "with": f"""
            async def main():
                async with resources:
                    Endings(resources).install()
                    begin()
                    {ending}
            asyncio.run(main())
        """,
    }
    out, err = end(start(bodies[form]), status)
    assert out == ["async", "sync"]
    assert ("mine" in err) == (status == 1)


def test_a_cancelled_task_cleans_up():
    body = """
        async def work():
            async with resources:
                begin()
                await asyncio.Event().wait()
        async def main():
            task = asyncio.create_task(work())
            await asyncio.sleep(0.01)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                say("cancelled")
        Endings(resources).install()
        asyncio.run(main())
    """
    assert end(start(body), 0)[0] == ["async", "sync", "cancelled"]


@pytest.mark.parametrize("form", ["sync", "async"])
def test_an_earlier_handler_is_put_back_and_called_after_the_cleanup(form):
    run = "ready(); time.sleep(60)" if form == "sync" else "asyncio.run(main())"
    body = f"""
        def mine(number, frame):
            say("mine", str(signal.getsignal(number) is mine))
            os._exit(7)
        signal.signal(signal.SIGTERM, mine)
        async def main():
            ready()
            await asyncio.Event().wait()
        Endings(resources).install()
        begin()
        {run}
    """
    process = start(body)
    lines_until_ready(process)
    process.send_signal(signal.SIGTERM)
    assert end(process, 7)[0] == ["async", "sync", "mine", "True"]


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_second_signal_hurries(form):
    body = {
        "sync": """
            def stuck():
                ready()
                time.sleep(3600)
            resources.register_resource("last", "x", lambda: say("last"))
            resources.register_resource("stuck", "x", stuck, "1h")
            Endings(resources).install()
            ready()
            time.sleep(3600)
        """,
        "async": """
            async def stuck():
                ready()
                await asyncio.Event().wait()
            async def main():
                resources.register_resource("last", "x", lambda: say("last"))
                resources.register_resource("stuck", "x", stuck, "1h")
                Endings(resources).install()
                ready()
                await asyncio.Event().wait()
            asyncio.run(main())
        """,
    }[form]
    process = start(body)
    lines_until_ready(process)
    process.send_signal(signal.SIGTERM)
    lines_until_ready(process)
    process.send_signal(signal.SIGTERM)
    assert end(process, -signal.SIGTERM)[0] == []


def test_an_ignored_signal_stays_ignored():
    process = start(SYNC, ignore=signal.SIGHUP)
    lines_until_ready(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert end(process, -signal.SIGTERM)[0] == ["async", "sync"]


def test_a_forked_child_dies_of_the_signal_and_leaves_the_cleanup_to_its_parent():
    body = """
        Endings(resources).install()
        begin()
        child = os.fork()
        if child == 0:
            say("child")
            time.sleep(3600)
        else:
            time.sleep(0.2)
            os.kill(child, signal.SIGTERM)
            say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            if os.fork() == 0:
                sys.exit(0)  # runs atexit in the child
            os.wait()
    """
    assert end(start(body), 0)[0] == ["child", "-15", "async", "sync"]


def test_uninstall_puts_everything_back():
    body = """
        before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        endings = Endings(resources)
        say(str(endings.install()), str(endings.install()))
        during = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        endings.uninstall()
        after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        say(str(before == after), str(before == during))
        begin()
    """
    assert end(start(body), 0)[0] == ["True", "True", "True", "False"]


def test_in_another_thread_there_is_still_the_last_net():
    body = """
        thread = threading.Thread(target=lambda: say(str(Endings(resources).install())))
        thread.start()
        thread.join()
        begin()
    """
    assert end(start(body), 0)[0] == ["False", "async", "sync"]


def test_a_handler_that_hangs_at_exit_is_given_up():
    body = """
        Endings(resources).install()
        resources.register_resource("sync", "x", lambda: say("sync"))
        resources.register_resource("hangs", "x", lambda: time.sleep(3600), "50ms")
        resources.register_resource("blocks the loop", "x", asynchronous_block, "50ms")
    """
    body = (
        """
        async def asynchronous_block():
            time.sleep(3600)
    """
        + body
    )
    out, err = end(start(body), 0)
    assert out == ["sync"]
    assert "did not end within 50 ms" in err


def test_what_nothing_can_clean():
    process = start(SYNC)
    lines_until_ready(process)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process, -signal.SIGKILL)[0] == []
