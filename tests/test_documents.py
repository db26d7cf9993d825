"""Every snippet of the README and the docs runs, each in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FILES = {
    "count.py": "def words(text: str) -> int:\n    return len(text.split())\n",
    "report.py": (
        "import os\n\n\ndef summary(folder: str) -> list[str]:\n"
        "    return sorted(name for name in os.listdir(folder) if name.endswith('.py'))\n"
    ),
    "server.py": (
        "import json, sys\n\nfor line in sys.stdin:\n    request = json.loads(line)\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': request['id'], 'result': 'pong'}), flush=True)\n"
    ),
}
# What a command of the documents must end with: (exit status, what stands in its output).
EXPECTED = {
    'remit run count.py:words text="a b c"': (0, "3"),
    "remit run --allow file_system:read:. report.py:summary folder=.": (0, "count.py"),
    "remit run -- python3 -c 'print(open(\"/etc/shadow\").read())'": (1, "Error"),
    "remit run --allow file_system:read:$PWD -- python3 server.py": (0, '"pong"'),
    "remit doctor": (None, "files"),
    "remit audit verify": (0, ""),
}
# Run by the workshop's own tests and by whoever starts this suite.
ELSEWHERE = ("python3 run.py ",)


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for number, match in enumerate(BLOCK.finditer(document.read_text())):
            if match[1] == language:
                found.append((f"{document.name}-{number}", match[2]))
    return found


def commands() -> list[str]:
    lines = [line for _, block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [re.split(r"\s+# ", line[2:])[0].strip() for line in lines]


def environment(folder: Path) -> dict[str, str]:
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return {**os.environ, "PATH": path, "REMIT_STATE_DIR": str(state), "PWD": str(folder)}


@pytest.mark.parametrize(("name", "source"), blocks("python"))
def test_a_python_snippet_runs(name: str, source: str, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in re.findall(r"print\(.*\)  # ([^,\n]+)", source):
        assert text.removeprefix("... ") in done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_is_said(command: str, tmp_path: Path) -> None:
    if command.startswith(ELSEWHERE):
        script, verb = command.split()[1:3]
        assert (ROOT / script).exists()
        assert verb in (ROOT / script).read_text()
        return
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    variables = environment(tmp_path)
    if command == "remit audit verify":
        before = ["remit", "run", "count.py:words", "text=a"]
        subprocess.run(before, cwd=tmp_path, env=variables, check=True, timeout=60)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        input='{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n',
        timeout=60,
        check=False,
    )
    status, text = EXPECTED[command]
    assert status is None or done.returncode == status, done.stdout + done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr or "python3 -c" in command


def test_json_snippets_are_json() -> None:
    found = blocks("json")
    assert found
    for _, text in found:
        json.loads(text)


def test_every_command_that_has_an_expectation_is_still_told() -> None:
    assert set(EXPECTED) <= set(commands())
