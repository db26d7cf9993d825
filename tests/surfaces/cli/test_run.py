from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.audit.reader import Reader
from remit.audit.verify import verify
from remit.model.limits import Limits
from remit.surfaces.cli.stdio import Neutral
from tests.surfaces.cli.programs import clean, command, environment, remit, unprivileged  # noqa: F401  # a fixture

TOOLS = '''
import os, sys

def word_count(text: str, least: int = 1) -> int:
    """Count words."""
    print("counting")
    print("still counting", file=sys.stderr)
    return len([word for word in text.split() if len(word) >= least])

def shout(text: str) -> str:
    return text.upper()

def kinds(flag: bool, ratio: float, names: list, table: dict = None) -> dict:
    return {"flag": flag, "ratio": ratio, "names": names, "table": table}

def many(first: int, /, second: int = 0, *rest: int, last: str) -> list:
    return [first, second, rest, last]

def extra(**more: str) -> dict:
    return more

async def later(n: int) -> int:
    return n + 1

def nothing():
    pass

def raw():
    return b"\\x00\\xff\\x1b[0m"

def nested():
    return {"data": b"\\x00\\xff", "text": "\\u202egnp"}

def who() -> list:
    return [os.getpid(), sorted(os.environ), sorted(sys.modules)]

def boom():
    raise ValueError("no good \\x1b[2J")

def leave():
    sys.exit(3)

def leak() -> str:
    with open("/etc/passwd") as file:
        return file.read()

def read(path: str) -> str:
    with open(path) as file:
        return file.read()

def spin():
    while True:
        pass

def wait():
    import time
    time.sleep(1000)

def eat():
    return len(bytearray(400 << 20))

def big():
    return "x" * (3 << 20)

def odd():
    return object()

def abort():
    os.abort()

def start():
    import subprocess
    return subprocess.run(["/bin/echo", "hello"]).returncode

class Tool:
    @staticmethod
    def run(n: int) -> int:
        return -n

answer = 42
'''
SERVER = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["method"] == "ping":
        result = {"pong": request["params"]}
    elif request["method"] == "environment":
        result = sorted(os.environ)
    elif request["method"] == "read":
        try:
            result = open(request["params"]).read()
        except OSError as error:
            result = {"refused": error.errno}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
print("bye", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "note.txt").write_text("a note\n")
    return tmp_path


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object that `--json` prints."""
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    with Reader(folder / "s" / "audit.db") as reader:
        return [json.loads(data) for _, data, *_ in reader.records(1, 1000)]


# -- functions ---------------------------------------------------------------------------------------------------------


def test_it_prints_what_the_function_returns_and_passes_on_what_it_writes(folder: Path) -> None:
    done = remit("run", "tools.py:word_count", "text=a bb ccc", "least=2", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "counting\n2\n", "still counting\n")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["shout", "text=hällo = you"], "HÄLLO = YOU\n"),
        (["shout", "text="], "\n"),
        (["later", "n=-3"], "-2\n"),
        (["Tool.run", "n=4"], "-4\n"),
        (["nothing"], ""),
        (
            ["kinds", "flag=true", "ratio=0.5", 'names=["a", 1]', 'table={"x": 2}'],
            '{"flag": true, "ratio": 0.5, "names": ["a", 1], "table": {"x": 2}}\n',
        ),
        (["many", "first=1", "second=2", "rest=[3, 4]", "last=x"], '[1, 2, [3, 4], "x"]\n'),
        (["many", "first=1", "last=x"], '[1, 0, [], "x"]\n'),
        (["extra", "any=thing"], '{"any": "thing"}\n'),
    ],
)
def test_arguments_are_read_by_the_signature(folder: Path, words: list[str], printed: str) -> None:
    done = remit("run", f"tools.py:{words[0]}", *words[1:], cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_bytes_are_printed_as_they_are(folder: Path) -> None:
    done = subprocess.run(
        command("run", "tools.py:raw"), cwd=folder, env=environment(folder), capture_output=True, check=True
    )
    assert done.stdout == b"\x00\xff\x1b[0m"


def test_json_holds_bytes_and_what_does_not_print(folder: Path) -> None:
    found = report(remit("run", "--json", "tools.py:nested", cwd=folder))
    assert found["value"] == {"data": {"$base64": "AP8="}, "text": "\u202egnp"}
    done = remit("run", "tools.py:nested", cwd=folder)
    assert "\u202e" not in done.stdout
    assert json.loads(done.stdout)["text"] == "\u202egnp"


def test_the_file_is_never_imported_here(folder: Path) -> None:
    """It would leave a mark beside it, of which the jail's copy can make none."""
    (folder / "marks.py").write_text(
        "import os\ntry:\n    os.mkdir('mark')\nexcept OSError:\n    pass\n"
        "PID = os.getpid()\ndef f() -> bool:\n    return True\n"
    )
    done = remit("run", "marks.py:f", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "true\n")
    assert not (folder / "mark").exists()
    for word in ("marks.py", "marks.py:none", "marks.py:PID"):
        clean(remit("run", word, cwd=folder), 2)
        assert not (folder / "mark").exists()
    assert not list(folder.rglob("__pycache__"))


def test_the_function_has_nothing_of_the_hosts(folder: Path) -> None:
    env = environment(folder, SECRET_TOKEN="hunter2")
    pid, names, modules = json.loads(remit("run", "tools.py:who", cwd=folder, env=env).stdout)
    assert names == []
    assert pid != os.getpid()
    assert "remit.runtime" not in modules


def test_a_module_that_reads_a_granted_file_at_its_import_works(folder: Path) -> None:
    note = folder / "data" / "note.txt"
    (folder / "early.py").write_text(f"NOTE = open({str(note)!r}).read()\ndef note() -> str:\n    return NOTE\n")
    done = remit("run", "early.py:note", cwd=folder)
    assert done.returncode in (1, 125)
    assert "note.txt" in done.stderr
    done = remit("run", "--allow", "file_system:read:data", "early.py:note", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "a note\n\n")


@pytest.mark.parametrize("name", ["json.py", "my-tool.py", "class.py", "remit.py", "2nd.py"])
def test_any_name_of_a_file_does(folder: Path, name: str) -> None:
    (folder / name).write_text("import beside\ndef f() -> str:\n    return beside.WORD\n")
    (folder / "beside.py").write_text("WORD = 'beside'")
    done = remit("run", f"./{name}:f", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "beside\n"), done.stderr


def test_nothing_of_the_current_folder_is_imported_here(folder: Path) -> None:
    for name in ("json", "click", "pydantic", "encodings_of_ours"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported')")
    words = command("run", "tools.py:shout", "text=a")
    words.remove("-P")
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "A\n", "")


def test_a_grant_by_a_relative_path_and_a_deny_beneath_it(folder: Path) -> None:
    note = folder / "data" / "note.txt"
    words = ("tools.py:read", f"path={note}")
    done = remit("run", *words, cwd=folder)
    message = clean(done, 125)
    assert f"--allow file_system:read:{note}" in message
    done = remit("run", "--allow", "file_system:read:data", *words, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "a note\n\n")
    done = remit("run", "--allow", "file_system:read:data", "--deny", "file_system", *words, cwd=folder)
    assert done.returncode in (2, 125)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["boom"], 1, "remit: `boom` raised ValueError: no good \\x1b[2J"),
        (["leave"], 1, "SystemExit"),
        (["leak"], 125, "--allow file_system:read:/etc/passwd"),
        (["start"], 125, "basic_execution:/bin/echo"),
        (["spin"], 124, "limit `cpu` of 1000 ms"),
        (["wait"], 124, "limit `timeout` of 300 ms"),
        (["eat"], 137, "limit `memory`"),
        (["big"], 2, "limit `result` of 1048576 bytes"),
        (["odd"], 2, "cannot be handed over"),
    ],
)
def test_each_ending_has_its_status_and_one_message(folder: Path, words: list[str], status: int, said: str) -> None:
    options = ["--timeout", "300ms"] if words == ["wait"] else []
    done = remit("run", *options, f"tools.py:{words[0]}", cwd=folder)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert said in done.stderr
    assert "\x1b" not in done.stderr or words == ["boom"]  # a pipe gets the traceback as it is, a terminal does not
    assert ("Traceback" in done.stderr) == (words == ["boom"])  # of the function's own, which is what its author needs


@pytest.mark.parametrize(
    ("words", "status", "what"),
    [
        (["word_count", "text=a"], "returned", ""),
        (["boom"], "raised", "ValueError"),
        (["leak"], "denied", "file_system:read:/etc/passwd"),
        (["spin"], "limit", "cpu"),
        (["eat"], "limit", "memory"),
        (["word_count"], "invalid", ""),
        (["nowhere"], "policy", ""),
    ],
)
def test_json_tells_endings_apart(folder: Path, words: list[str], status: str, what: str) -> None:
    done = remit("run", "--json", f"tools.py:{words[0]}", *words[1:], cwd=folder)
    found = report(done)
    assert (found["status"], found["what"]) == (status, what)
    assert done.stderr == ""
    assert found["exit_status"] is None
    assert bool(found["reason"]) == (status != "returned")
    if status in ("returned", "raised", "denied", "limit", "crashed"):
        assert found["tier"].startswith("landlock")
        assert found["usage"]["wall_ms"] > 0
        assert found["event_id"]
    if status == "returned":
        assert (found["value"], found["stdout"], found["stderr"]) == (1, "counting\n", "still counting\n")


def test_a_crash_is_neither_a_return_nor_a_raise(folder: Path) -> None:
    done = remit("run", "--json", "tools.py:abort", cwd=folder)
    found = report(done)
    assert found["status"] == "crashed"
    # 134 when the end was seen as SIGABRT, 137 when the closed channel was seen first and the jail killed for that
    assert done.returncode == (134 if found["what"] == "SIGABRT" else 137)


def test_every_run_stands_on_a_trail_that_verifies(folder: Path) -> None:
    remit("run", "tools.py:shout", "text=a", cwd=folder)
    found = report(remit("run", "--json", "--allow", "file_system:tmp", "--", "cat", cwd=folder))
    remit("run", "tools.py:leak", cwd=folder)
    trail = folder / "s" / "audit.db"
    assert verify(trail).ok
    seen = [(event["type"], event["action"], event["principal"]) for event in events(folder)]
    assert ("imported", "shout", "remit run") in seen
    assert ("call", "shout", "remit run") in seen
    assert ("outcome", "shout", "remit run") in seen
    place = seen.index(("call", "/usr/bin/cat", "remit run"))
    assert seen[place + 1][:2] == ("outcome", "/usr/bin/cat")
    registered = next(e for e in events(folder) if e["type"] == "registered" and e["action"] == "/usr/bin/cat")
    assert registered["context"]["unlimited"] == ["cpu", "timeout"]
    assert found["event_id"] == events(folder)[place + 1]["id"]


def test_limits_are_those_that_are_given(folder: Path) -> None:
    found = report(
        remit("run", "--json", "--limit", "cpu=200ms", "--limit", "timeout=60s", "tools.py:spin", cwd=folder)
    )
    assert (found["what"], found["bound"]) == ("cpu", 200)
    found = report(remit("run", "--json", "--limit", "memory=1GiB", "--limit", "cpu=5s", "tools.py:eat", cwd=folder))
    assert found["value"] == 400 << 20
    found = report(remit("run", "--json", "--limit", "result=8MiB", "tools.py:shout", "text=a", cwd=folder))
    assert found["status"] == "returned"


def test_every_limit_can_be_given(folder: Path) -> None:
    texts = {**Limits().as_text(), "timeout": "5s"}
    options = [option for name, text in texts.items() for option in ("--limit", f"{name}={text}")]
    assert remit("run", *options, "tools.py:shout", "text=a", cwd=folder).stdout == "A\n"


# -- bad input ---------------------------------------------------------------------------------------------------------

GRANT = "tools.py:shout"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # permissions and scopes
        (["--allow", "netwrok", GRANT, "text=a"], ["`netwrok`", "did you mean `network`"]),
        (["--allow", "file_system:red:/tmp", GRANT, "text=a"], ["red"]),
        (["--allow", "file_system", GRANT, "text=a"], ["`file_system` without a scope", "file_system:read:"]),
        (["--allow", "network:*.*.com", GRANT, "text=a"], ["*.*.com"]),
        (["--allow", "basic_execution:/a?b", GRANT, "text=a"], ["can never match"]),
        (["--allow", "file_system:read:nowhere", GRANT, "text=a"], ["nowhere", "cannot be resolved"]),
        (["--allow", "basic_execution:no-such-program", GRANT, "text=a"], ["no-such-program"]),
        (["--allow", "file_system:write:s", GRANT, "text=a"], ["which holds it"]),
        (["--deny", "netwrok", GRANT, "text=a"], ["`netwrok`"]),
        (["--allow", "\x1b[2J", GRANT, "text=a"], ["\\x1b[2J"]),
        # limits
        (["--limit", "memry=1MiB", GRANT, "text=a"], ["--limit memry=1MiB", "did you mean `memory`"]),
        (["--limit", "memory", GRANT, "text=a"], ["NAME=VALUE"]),
        (["--limit", "memory=1.5", GRANT, "text=a"], ["--limit", "memory"]),
        (["--limit", "memory=lots", GRANT, "text=a"], ["lots"]),
        (["--limit", "cpu=5", GRANT, "text=a"], ["5 milliseconds", '"5s"']),
        (["--limit", "cpu=1s", "--limit", "cpu=2s", GRANT, "text=a"], ["twice"]),
        (["--timeout", "soon", GRANT, "text=a"], ["--timeout", "soon"]),
        (["--timeout", "1s", "--limit", "timeout=2s", GRANT, "text=a"], ["twice"]),
        (["--accept-without", "everything", GRANT, "text=a"], ["everything"]),
        # the file and the function
        (["tools.py"], ["without a function", "`word_count`"]),
        (["tools.py:"], ["without a function"]),
        (["tools.py:nothere"], ["no function `nothere`", "`boom`"]),
        (["tools.py:shou"], ["did you mean `shout`"]),
        (["tools.py:answer"], ["not a function"]),
        (["tools.py:Tool.walk"], ["no function `Tool.walk`"]),
        (["tools.py:1+1"], ["not the name of a function"]),
        (["nowhere.py:f"], ["no file `nowhere.py`"]),
        (["data:f"], ["not a Python file"]),
        (["data/note.txt:f"], ["not a Python file"]),
        (["ls"], ["remit run -- ls"]),
        ([], ["FILE.py:FUNCTION"]),
        (["--"], ["FILE.py:FUNCTION"]),
        ([GRANT, "--", "cat"], ["not both"]),
        # the arguments
        ([GRANT], ["missing `text`", "shout(text: str)"]),
        ([GRANT, "txt=a"], ["`txt`", "did you mean `text`", "shout(text: str)"]),
        ([GRANT, "hello"], ["`hello` is not ARG=VALUE"]),
        ([GRANT, "text=a", "text=b"], ["twice"]),
        ([GRANT, "text=\x1b[2J"], ["args.text", "control character"]),
        (["tools.py:later", "n=many"], ["args.n", "an integer", "later(n: int)"]),
        (["tools.py:kinds", "flag=perhaps", "ratio=1", "names=[]"], ["args.flag", "`true` or `false`"]),
        (["tools.py:kinds", "flag=true", "ratio=1", "names=[1"], ["args.names"]),
        (["tools.py:many"], ["`first`, `last`", "many(first: int, second: int = ..., *rest: int, last: str)"]),
        # the policy file
        (["--policy", "nowhere.yaml", GRANT, "text=a"], ["nowhere.yaml"]),
        (["--policy", "tools.py", GRANT, "text=a"], ["tools.py"]),
    ],
)
def test_bad_input_is_one_message_with_place_and_mend(folder: Path, words: list[str], said: Sequence[str]) -> None:
    (folder / "s").mkdir(mode=0o700)
    done = remit("run", *words, cwd=folder)
    message = clean(done, 2)
    assert done.stdout == ""
    assert message.startswith("remit: ")
    assert all(line.startswith(("remit: ", "  help: ")) for line in message.splitlines()), message
    assert message.replace("\n", "").isprintable()
    for part in said:
        assert part in message, message
    if (folder / "s" / "audit.db").exists():
        assert not any(event["type"] == "call" for event in events(folder))


def test_usage_as_json_too(folder: Path) -> None:
    for words in (["--nothing"], [], ["tools.py:shout", "--", "cat"]):
        done = remit("run", "--json", *words, cwd=folder)
        assert done.returncode == 2
        assert report(done)["status"] == "usage"


def test_the_policy_file_is_the_ceiling(folder: Path) -> None:
    (folder / "remit.yaml").write_text(
        "version: 1\nagents:\n  remit run:\n    permissions: [basic_execution, 'file_system:read:data']\n"
        "    limits: {cpu: 300ms}\n"
    )
    note = folder / "data" / "note.txt"
    words = ("tools.py:read", f"path={note}")
    assert remit("run", "--allow", "file_system:read:data", *words, cwd=folder).returncode == 0
    message = clean(remit("run", "--allow", "file_system:read:.", *words, cwd=folder), 2)
    assert "more than" in message
    assert "remit.yaml" in message
    message = clean(remit("run", "--limit", "cpu=1s", "tools.py:spin", cwd=folder), 2)
    assert "cpu" in message
    found = report(remit("run", "--json", "tools.py:spin", cwd=folder))
    assert (found["what"], found["bound"]) == ("cpu", 300)
    message = clean(remit("run", "--", "cat", cwd=folder), 2)
    assert "basic_execution:/usr/bin/cat" in message


def test_a_trail_that_takes_no_event_stops_the_run(folder: Path) -> None:
    assert remit("run", "tools.py:shout", "text=a", cwd=folder).returncode == 0
    for name in ("audit.db-wal", "audit.db-shm"):
        (folder / "s" / name).unlink(missing_ok=True)
    (folder / "s" / "audit.db").write_bytes(b"not a database, not a database, not a database")
    done = remit("run", "tools.py:shout", "text=a", cwd=folder)
    assert "audit.db" in clean(done, 2)
    assert done.stdout == ""
    assert report(remit("run", "--json", "tools.py:shout", "text=a", cwd=folder))["status"] == "audit"


@pytest.mark.parametrize("grant", ["network:example.com", "env:HOME", "llm:gpt-5"])
def test_a_grant_that_is_not_brokered_yet_refuses(folder: Path, grant: str) -> None:
    message = clean(remit("run", "--allow", grant, "tools.py:shout", "text=a", cwd=folder), 125)
    kind = grant.partition(":")[0]
    assert f"{kind} is not brokered yet" in message
    assert f"--allow {kind}" in message


def test_a_file_that_cannot_be_parsed_is_told_from_the_jail(folder: Path) -> None:
    for number, text in enumerate(
        ("def f(:\n", "x = " + "-" * 200_000 + "1\n", "(" * 5000, "\x00", "def f(): '\\d'\n")
    ):
        (folder / f"bad{number}.py").write_text(text)
        done = remit("run", f"bad{number}.py:f", cwd=folder)
        assert done.returncode in ((0,) if number == 4 else (1, 137, 139)), done.stderr
        assert done.stdout == ""
    (folder / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\ndef f() -> str:\n    return '\xe4'\n")
    assert remit("run", "latin.py:f", cwd=folder).stdout == "ä\n"
    (folder / "broken.py").write_bytes(b"def f() -> str:\n    return '\xe4'\n")
    assert "broken.py" in clean(remit("run", "broken.py:f", cwd=folder), 2)


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -SEGV $$"], 139, "SIGSEGV"),
        (["no-such-program"], 127, "no program `no-such-program`"),
        (["./no-such-program"], 127, "no program `./no-such-program`"),
        (["./data/note.txt"], 126, "chmod +x ./data/note.txt"),
        (["./data"], 126, "name a file"),
        (["./junk"], 126, "neither a program of this machine nor a script"),
        (["./orphan"], 127, "is the interpreter that its first line names there?"),
    ],
)
def test_a_program_has_its_own_status_or_the_shells(folder: Path, words: list[str], status: int, said: str) -> None:
    for name, text in (("junk", "junk"), ("orphan", "#!/no/such/interpreter\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = remit("run", "--", *words, cwd=folder)
    assert said in clean(done, status)


def test_limits_of_a_program(folder: Path) -> None:
    assert "limit `timeout` of 300 ms" in clean(remit("run", "--timeout", "300ms", "--", "sleep", 100, cwd=folder), 124)
    busy = ("--", "sh", "-c", "while :; do :; done")
    assert "limit `cpu` of 200 ms" in clean(remit("run", "--limit", "cpu=200ms", *busy, cwd=folder), 124)


def test_a_program_outlasts_the_limits_of_a_function(folder: Path) -> None:
    """A function's are 1 s of CPU and 5 s of time; this is more CPU than that."""
    code = "import time\nwhile time.process_time() < 1.5: pass\nprint('done')"
    done = remit("run", "--", "/usr/bin/python3", "-c", code, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_script_runs_by_its_interpreter(folder: Path) -> None:
    (folder / "script").write_text('#!/bin/sh\necho "$0 $1"\n')
    (folder / "script").chmod(0o755)
    done = remit("run", "--", "./script", "x y", cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"{folder / 'script'} x y\n"), done.stderr


def test_a_program_is_denied_what_is_denied(folder: Path) -> None:
    done = remit("run", "--deny", "basic_execution:cat", "--json", "--", "cat", cwd=folder)
    assert done.returncode == 125
    assert report(done)["status"] == "denied"


def test_a_program_reaches_no_file_and_no_variable_of_the_hosts(folder: Path) -> None:
    env = environment(folder, SECRET_TOKEN="hunter2")
    done = remit("run", "--", "cat", "/etc/passwd", folder / "data" / "note.txt", cwd=folder, env=env)
    assert done.returncode == 1
    assert done.stdout == ""
    done = remit("run", "--", "env", cwd=folder, env=env)
    assert sorted(done.stdout.splitlines()) == [
        "HOME=/nonexistent",
        "LANG=C.UTF-8",
        "PATH=/usr/local/bin:/usr/bin:/bin",
    ]
    done = remit("run", "--allow", "file_system:tmp", "--", "env", cwd=folder, env=env)
    if done.returncode != 125:  # the scratch needs namespaces
        assert {"HOME=/tmp", "TMPDIR=/tmp"} < set(done.stdout.splitlines())


def test_the_working_folder_is_the_current_one_where_a_grant_reaches_it(folder: Path) -> None:
    assert remit("run", "--", "pwd", cwd=folder).stdout == "/\n"
    for grant in (".", "data", str(folder.parent), "data/note.txt"):
        assert remit("run", "--allow", f"file_system:read:{grant}", "--", "pwd", cwd=folder).stdout == f"{folder}\n"
    assert remit("run", "--allow", "file_system:read:/usr/share", "--", "pwd", cwd=folder).stdout == "/\n"


def test_processes_need_the_limit_and_the_grant(folder: Path) -> None:
    words = ("--", "sh", "-c", "/bin/echo one; /bin/true && echo two")
    done = remit("run", "--allow", "basic_execution:echo", *words, cwd=folder)
    assert done.returncode not in (0, 125)
    done = remit("run", "--limit", "processes=4", *words, cwd=folder)
    assert "one" not in done.stdout
    options = ["--limit", "processes=4", "--allow", "basic_execution:echo", "--allow", "basic_execution:true"]
    done = remit("run", *options, *words, cwd=folder)
    if done.returncode == 125:
        pytest.skip("needs user namespaces: more processes than one cannot be counted here")
    assert done.stdout == "one\ntwo\n"


def talk(process: subprocess.Popen[str], method: str, params: object) -> Any:
    """One request and its answer, one line each, as MCP's stdio transport has it."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())["result"]


@pytest.mark.parametrize("python", ["/usr/bin/python3", sys.executable])
@pytest.mark.parametrize("kind", ["pipes", "sockets"])  # a client in Python speaks by pipes, one in Node by sockets
def test_an_mcp_server_over_stdio_works(folder: Path, python: str, kind: str) -> None:
    if not os.path.exists(python):
        pytest.skip(f"needs another python: {python}")
    (folder / "server.py").write_text(SERVER)
    words = command("run", "--allow", "file_system:read:server.py", "--", python, "server.py")
    ours, theirs = socket.socketpair()
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    if kind == "sockets":
        ends = {"stdin": theirs, "stdout": theirs}
    with subprocess.Popen(
        words, cwd=folder, env=environment(folder), text=True, stderr=subprocess.PIPE, **ends
    ) as process:
        theirs.close()
        if kind == "sockets":
            process.stdin, process.stdout = ours.makefile("w"), ours.makefile("r")
        assert talk(process, "ping", ["x" * 100_000]) == {"pong": ["x" * 100_000]}
        assert talk(process, "environment", None) == ["HOME", "LANG", "PATH"]
        assert talk(process, "read", "/etc/passwd") == {"refused": 2}
        assert talk(process, "read", str(folder / "tools.py")) == {"refused": 2}
        assert process.stdin
        process.stdin.close()
        if kind == "sockets":
            ours.shutdown(socket.SHUT_WR)
        assert process.stderr
        assert process.stderr.read() == "bye\n"
        assert process.wait(60) == 7
        assert process.stdout
        process.stdout.close()
    ours.close()


def test_json_keeps_what_a_program_writes_up_to_the_limit(folder: Path) -> None:
    found = report(remit("run", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3", cwd=folder))
    assert (found["status"], found["exit_status"]) == ("returned", 3)
    assert (found["stdout"], found["stderr"]) == ("out\n", "err\n")
    code = "print('x' * 100000)"
    found = report(remit("run", "--json", "--limit", "output=10KiB", "--", "/usr/bin/python3", "-c", code, cwd=folder))
    assert found["stdout"] == "x" * 10_240
    assert found["exit_status"] == 0


def test_input_that_the_program_does_not_read_is_left_for_the_next(folder: Path) -> None:
    script = 'read a; "$@" -- true; read b; echo "$a $b"'
    (folder / "lines").write_text("one\ntwo\n")
    with (folder / "lines").open() as lines:
        done = subprocess.run(
            ["bash", "-c", script, "bash", *command("run")],
            stdin=lines,
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == "one two\n", done.stderr


def test_closed_descriptors_are_nothing_to_a_program(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", *command("run", "--", "cat")],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- a terminal --------------------------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, *words: object, typed: bytes = b"") -> tuple[int, str]:
    """Run it with a pseudo-terminal as all three; returns the status and all that it showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment(folder, TERM="xterm"),
        start_new_session=True,
    ) as process:
        os.close(theirs)
        if typed:
            os.write(ours, typed)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # the end, as a pseudo-terminal tells it
            pass
        process.wait(60)
    os.close(ours)
    return process.returncode, shown.decode()


PROBE = r"""
for fd in 0 1 2; do test -t $fd && echo "$fd is a terminal"; done
printf '\033[31mred\033[0m \033]0;title\007 \342\200\256gnp \377\n'
echo "$TERM"; read line; echo "read $line"
"""


def test_a_program_on_a_terminal_gets_its_own_and_moves_no_cursor(folder: Path) -> None:
    status, shown = on_a_terminal(folder, "run", "--", "sh", "-c", PROBE, typed=b"hello\n")
    assert status == 0
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    lines = shown.replace("\r\n", "\n").splitlines()
    assert "0 is a terminal" not in lines
    assert "1 is a terminal" in lines
    assert "2 is a terminal" in lines
    assert "\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 \\u202egnp \\xff" in lines
    assert "dumb" in lines
    assert "read hello" in lines


def test_the_terminal_of_the_user_is_out_of_reach(folder: Path) -> None:
    """TIOCSTI would type into the user's shell (CVE-2023-28100 and its like); /dev/tty would be the way to it."""
    code = (
        "import fcntl, sys\n"
        "for fd in (0, 1, 2):\n"
        "    try:\n        fcntl.ioctl(fd, 0x5412, b'x'); print('typed')\n"
        "    except OSError as error: print('refused')\n"
        "try:\n    open('/dev/tty'); print('opened')\nexcept OSError: print('no tty')\n"
    )
    _, shown = on_a_terminal(folder, "run", "--", "/usr/bin/python3", "-c", code)
    assert shown.count("refused") == 3
    assert "no tty" in shown
    assert "typed" not in shown


def test_what_a_function_writes_and_returns_moves_no_cursor(folder: Path) -> None:
    (folder / "loud.py").write_text(
        "import sys\ndef f() -> list:\n    print('\\033[2J')\n    print('\\033[3J', file=sys.stderr)\n"
        "    return ['\\u202e']\n"
        "def g() -> bytes:\n    return b'\\033c'\n"
    )
    for name in "fg":
        _, shown = on_a_terminal(folder, "run", f"loud.py:{name}")
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\x1b" in shown
    _, shown = on_a_terminal(folder, "run", "tools.py:boom")
    assert "\x1b" not in shown
    assert "Traceback" in shown


@given(st.binary(max_size=200), st.integers(1, 50))
def test_neutral_output_is_printable_however_it_is_cut(data: bytes, size: int) -> None:
    cut = Neutral()
    pieces = b"".join(cut.feed(data[at : at + size]) for at in range(0, len(data), size)) + cut.feed(b"", last=True)
    assert pieces == Neutral().feed(data, last=True)
    assert pieces.decode().replace("\n", "").replace("\t", "").isprintable()


@given(st.text(max_size=200))
def test_neutral_output_leaves_plain_text_alone(text: str) -> None:
    if text.replace("\n", "").replace("\t", "").isprintable():
        assert Neutral().feed(text.encode(), last=True) == text.encode()


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("what", ["program", "function"])
def test_a_signal_ends_the_jail_and_the_outcome_is_recorded(folder: Path, number: signal.Signals, what: str) -> None:
    (folder / "waits.py").write_text("import time\ndef f():\n    time.sleep(1000)\n")
    words = (
        ["--", "sh", "-c", "echo up; exec sleep 1000"] if what == "program" else ["--timeout", "1000s", "waits.py:f"]
    )
    words = words if what == "function" else ["--allow", "basic_execution:sleep", *words]
    with subprocess.Popen(
        command("run", *words), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        if what == "program":
            assert process.stdout.readline() == b"up\n"
        else:
            intended(folder)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == f"remit: ended by {number.name}\n".encode()
    found = events(folder)
    assert any(event["type"] == "outcome" and event["context"]["status"] == "killed" for event in found)
    assert found[-1]["type"] == "stopped"
    assert verify(folder / "s" / "audit.db").ok


def intended(folder: Path) -> None:
    """Wait until the intent of a call is on the trail."""
    watched = select.poll()
    while True:
        if (folder / "s" / "audit.db").exists() and any(event["type"] == "call" for event in events(folder)):
            return
        watched.poll(20)


def test_nothing_outlives_remit_when_it_is_killed(folder: Path) -> None:
    """The program holds a lock; when the kernel has ended it the lock is free."""
    (folder / "data" / "lock").write_text("")
    code = "import fcntl, time; f = open('lock'); fcntl.flock(f, 1); print('up', flush=True); time.sleep(1000)"
    words = command("run", "--allow", "file_system:read:.", "--", "/usr/bin/python3", "-c", code)
    with (folder / "data" / "lock").open() as lock:
        with subprocess.Popen(words, cwd=folder / "data", env=environment(folder), stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"up\n"
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process.kill()
        fcntl.flock(lock, fcntl.LOCK_EX)  # or the test's own deadline passes


# -- somebody without privileges ---------------------------------------------------------------------------------------


def test_it_works_for_somebody_without_privileges(unprivileged: Any) -> None:  # noqa: F811  # the fixture
    place, options = unprivileged
    (place / "tools.py").write_text(TOOLS)
    (place / "server.py").write_text(SERVER)
    done = remit("run", "tools.py:word_count", "text=a b", cwd=place, **options)
    assert (done.returncode, done.stdout) == (0, "counting\n2\n"), done.stderr
    assert remit("run", "tools.py:leak", cwd=place, **options).returncode == 125
    assert remit("run", "--timeout", "300ms", "tools.py:wait", cwd=place, **options).returncode == 124
    asked = json.dumps({"id": 1, "method": "read", "params": "/etc/passwd"}) + "\n"
    words = ("run", "--allow", "file_system:read:server.py", "--", "/usr/bin/python3", "server.py")
    done = remit(*words, cwd=place, input=asked, **options)
    assert done.returncode == 7, done.stderr
    assert "refused" in json.loads(done.stdout)["result"]
    assert verify(place / "s" / "audit.db").ok
