"""Attacks: small functions that are stopped in the jail, and succeed in a plain process.

An attack returns evidence (anything but None) when it got what it wanted; an exception or None is a failure. So "it was
stopped" and "the control succeeded" are decided by the same line of the same code.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from remit.jail import _uapi, interpreter
from remit.jail.probe import Features, guarantees
from remit.jail.spec import Code, Ending

ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534
TABLE: dict[tuple[str, str], dict[str, str]] = {}  # (file, attack) -> setting -> what happened

PRELUDE = (
    (Path(__file__).with_name("prelude.py").read_text())
    .replace("from remit.jail import _uapi\n", "")
    .replace("_uapi.calls(os.uname().machine)", repr(_uapi.calls(os.uname().machine)))
)


BY_NAME = "\n\ndef by_name(name, bait):\n    return globals()[name](bait)\n"


@dataclass
class Attack:
    name: str
    source: str
    spec: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ends: str  # how the ending must begin ("limit memory"), or "" for any way of being stopped
    needs: str  # the guarantee without which nothing is promised
    control: str  # "plain", "root", or why there is none
    tolerated: Callable[[Any], bool] | None  # evidence that proves nothing


@dataclass
class Setting:
    """One host of jails: as which user, with which features."""

    name: str
    python: list[str]
    user: int
    simulate: Mapping[str, Any]
    refuse: bool
    source: str
    bait: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    features: Features = field(default_factory=Features)

    def start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        driver = str(Path(self.source) / "driver.py")
        self.process = subprocess.Popen(
            [*self.python, driver, self.source, json.dumps(dict(self.simulate)), "refuse" if self.refuse else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={"REMIT_ESCAPE_MARK": "the-host-environment"},
        )
        assert self.process.stdout is not None
        try:
            self.features = pickle.load(self.process.stdout)
        except EOFError:
            self.stop()
            raise

    def run(self, module: str, attribute: str, *args: Any, **fields: Any) -> Ending:
        return self.job(module, attribute, args, fields)[0]

    def job(self, module: str, attribute: str, args: tuple[Any, ...], fields: Mapping[str, Any]) -> Any:
        """Run `attribute` of the text `module` in a jail; returns the Ending (or why there is none), and refusals."""
        self.start()
        path = self.python_path
        sources = {"attacks": ("/x/attacks.py", module, False)}
        code = Code("module", module="attacks", attribute=attribute, sources=sources)
        spec = {"owner": "a", "code": code, "path": path, "interpreter": self.python_roots, "timeout": 4_000, **fields}
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((spec, {"args": list(args), "kwargs": {}}), self.process.stdin)
        self.process.stdin.flush()
        return pickle.load(self.process.stdout)

    @property
    def python_path(self) -> tuple[str, ...]:
        return self._of_python("python_path")

    @property
    def python_roots(self) -> tuple[str, ...]:
        return self._of_python("python_roots")

    def _of_python(self, what: str) -> tuple[str, ...]:
        if self.python == [sys.executable]:
            return tuple(getattr(interpreter, what)())
        if what not in self.bait:
            code = f"import sys; sys.path.insert(0, {self.source!r}); from remit.jail import interpreter\n"
            code += f"print(interpreter.{what}())"
            done = subprocess.run([*self.python, "-c", code], capture_output=True, text=True, check=True, cwd="/")
            self.bait[what] = ast.literal_eval(done.stdout)
        found: tuple[str, ...] = self.bait[what]
        return found

    def held(self, guarantee: str) -> bool:
        return guarantees(self.features)[guarantee].held

    def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.close()
            self.process.wait(20)
            self.process.stdout.close()
            self.process = None


class Attacks:
    """The attacks of one file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file).stem.removeprefix("test_")
        self.known: list[Attack] = []

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        spec: Callable[[Mapping[str, Any]], Mapping[str, Any]] | Mapping[str, Any] | None = None,
        ends: str = "",
        needs: str = "",
        control: str = "plain",
        tolerated: Callable[[Any], bool] | None = None,
    ) -> Any:
        if function is None:
            return lambda inner: self(inner, spec=spec, ends=ends, needs=needs, control=control, tolerated=tolerated)
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :]
        given = spec if callable(spec) else (lambda _bait: spec or {})
        self.known.append(Attack(function.__name__, source, given, ends, needs, control, tolerated))
        return function

    def module(self) -> str:
        return PRELUDE + "\n\n".join(attack.source for attack in self.known)

    def stopped(self) -> Any:
        """Return the test that runs each attack in each setting's jail."""

        @pytest.mark.parametrize("attack", self.known, ids=lambda attack: attack.name)
        def test(attack: Attack, setting: Setting) -> None:
            row = TABLE.setdefault((self.file, attack.name), {})
            if attack.needs and not setting.held(attack.needs):
                row[setting.name] = "not held"
                return  # it is reported as not held, which tests/jail/test_probe.py checks
            row[setting.name] = "ESCAPED"
            # One name for all, so that attacks under the same limits share a template.
            fields = attack.spec(setting.bait)
            outcome = setting.run(self.module() + BY_NAME, "by_name", attack.name, setting.bait, **fields)
            if outcome == ("unheld", attack.needs and "processes"):  # a grant that the machine cannot hold is refused
                row[setting.name] = "not held"
                return
            assert isinstance(outcome, Ending), outcome
            escaped = outcome.status == "returned" and outcome.value is not None
            if escaped and attack.tolerated is not None and attack.tolerated(outcome.value):
                escaped = False
            assert not escaped, outcome.value
            ended = f"{outcome.status} {outcome.what}"
            assert ended.startswith(attack.ends), (ended, outcome.message, outcome.traceback)
            row[setting.name] = ended.partition(":")[0][:24] if outcome.status != "returned" else "nothing"

        return test

    def controlled(self) -> Any:
        """Return the test that shows each attack to succeed without the jail."""

        known = [attack for attack in self.known if attack.control in ("plain", "root")]

        @pytest.mark.parametrize("attack", known, ids=lambda attack: attack.name)
        def test(attack: Attack, plain: Setting) -> None:
            if attack.control == "root" and os.getuid() != 0:
                pytest.skip("needs root: the attack itself asks for it")
            TABLE.setdefault((self.file, attack.name), {})["control"] = "FAILED"
            evidence = in_the_open(self.module(), attack.name, plain)
            assert evidence is not None
            if attack.tolerated is not None:
                assert not attack.tolerated(evidence)
            TABLE[self.file, attack.name]["control"] = "succeeds"

        return test


def in_the_open(module: str, attribute: str, plain: Setting, timeout: float = 20) -> Any:
    """Run a function of `module` in a plain, fresh process; returns what it returned.

    The answer goes to a file, as the attack may do anything with its descriptors and its process.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer, script = Path(folder, "answer"), Path(folder, "attacks.py")
        last = f"\nimport json\nbait = json.loads({json.dumps(plain.bait)!r})\n"
        last += f"open({str(answer)!r}, 'w').write(json.dumps({attribute}(bait)))\nos._exit(0)\n"
        script.write_text(module + last)
        subprocess.run(
            [sys.executable, str(script)], capture_output=True, timeout=timeout, check=False, start_new_session=True
        )
        return json.loads(answer.read_text()) if answer.exists() else None


def open_python() -> list[str]:
    """Return how to start a Python 3.11 or newer as an unprivileged user, [] when there is none for everybody."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    start = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    found = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    found += [f"/usr/bin/python3.{minor}" for minor in range(14, 10, -1)]
    for python in found:
        if not os.path.exists(python):
            continue
        # It must be able to start itself again, which is how a zygote begins.
        test = "import subprocess as s, sys; assert sys.version_info >= (3, 11); "
        test += "s.run([sys.executable, '-Ic', '0'], check=True)"
        check = [*start, python, "-I", "-c", test]
        if subprocess.run(check, capture_output=True, check=False, cwd="/").returncode == 0:
            return [*start, python]
    return []


class World:
    """What there is to attack: files, sockets, processes of the user of a setting, outside every grant."""

    def __init__(self, user: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="remit-bait-")
        os.chmod(self.folder, 0o755)
        self.open: list[socket.socket] = []
        root = Path(self.folder)
        for name in ("secret", "read", "write", "outside", "write/kept"):
            (root / name).mkdir()
        for name in ("secret/token", "read/data", "read/other", "outside/file", "write/kept/file", "write/seen"):
            (root / name).write_text("the-secret" if name == "secret/token" else "data")
        (root / "read/link").symlink_to(root / "secret/token")
        (root / "read/up").symlink_to("../secret")
        (root / "read/program").write_text("#!/bin/sh\necho ran\n")
        os.chmod(root / "read/program", 0o755)
        os.mkfifo(root / "outside/fifo")
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        stream, dgram, abstract = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 1))
        self.open += [tcp, udp, stream, dgram, abstract]
        name = f"\0remit-bait-{os.getpid()}-{user}"
        for sock, address in (
            (tcp, ("127.0.0.1", 0)),
            (udp, ("127.0.0.1", 0)),
            (stream, str(root / "read/stream")),
            (dgram, str(root / "read/dgram")),
            (abstract, name),
        ):
            sock.bind(address)
        for sock in (tcp, stream, abstract):
            sock.listen(64)
        start = [] if user == os.getuid() else [shutil.which("setpriv") or "setpriv", f"--reuid={user}", "--"]
        self.victim = subprocess.Popen([*start, "sleep", "600"], cwd="/")
        if user != os.getuid():
            for path in [root, *root.rglob("*")]:
                os.chown(path, user, user, follow_symlinks=False)
        self.bait: dict[str, Any] = {
            "root": self.folder,
            "secret": str(root / "secret/token"),
            "secrets": str(root / "secret"),
            "read": str(root / "read"),
            "write": str(root / "write"),
            "outside": str(root / "outside"),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "abstract": name,
            "victim": self.victim.pid,
            "host": os.getpid(),
            "user": user,
        }

    def close(self) -> None:
        for sock in self.open:
            sock.close()
        self.victim.kill()
        self.victim.wait()
        shutil.rmtree(self.folder)
