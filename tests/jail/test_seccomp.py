"""The compiler against an oracle that knows nothing of it: the rules, read clause by clause, without jumps."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.jail import _uapi, seccomp
from remit.jail.seccomp import (
    ALLOW,
    KILL,
    NOTIFY,
    PID_PLACE,
    Clause,
    assemble,
    deny,
    evaluate,
    tail_rules,
    template_rules,
)

MACHINES = ("x86_64", "aarch64")
LOW = 0xFFFFFFFF
FLAGS = _uapi.CLONE_PARENT | _uapi.CLONE_NEWUSER | 17
KINDS = [
    {"programs": False, "processes": False, "threads": True, "own_mounts": True},
    {
        "programs": False,
        "processes": False,
        "threads": False,
        "own_mounts": False,
        "truncation": False,
        "signals": False,
    },
    {"programs": True, "processes": True, "threads": True, "own_mounts": True, "remap": False},
    {"programs": True, "processes": False, "threads": True, "own_mounts": False, "remap": False, "truncation": False},
]


def holds(test: seccomp.Test, arguments: tuple[int, ...]) -> bool:
    value = arguments[test.argument]
    same = value == test.value if test.wide else (value & LOW & test.mask) == (test.value & LOW)
    return same != test.negate


def verdict(rule: int | tuple[Clause, ...] | None, arguments: tuple[int, ...]) -> int:
    if rule is None:
        return deny()
    if isinstance(rule, int):
        return rule
    return next(c.action for c in rule if all(holds(test, arguments) for test in c.tests))


def interesting(rule: int | tuple[Clause, ...] | None) -> Iterator[tuple[int, ...]]:
    """For each test of a rule, values on both sides of it, alone and together, with dirty high halves."""
    yield (0,) * 6
    yield (LOW,) * 6
    yield ((1 << 64) - 1,) * 6
    if rule is None or isinstance(rule, int):
        return
    values: dict[int, set[int]] = {}
    for clause in rule:
        for test in clause.tests:
            near = {test.value, test.value ^ 1, test.value | 1 << 33, test.value + 1, test.value & ~1, test.mask, 0}
            values.setdefault(test.argument, set()).update(near)
    names = list(values)
    for first in names:
        for value in values[first]:
            base = [0] * 6
            base[first] = value
            yield tuple(base)
            for second in names:
                for other in values[second]:
                    pair = list(base)
                    pair[second] = other
                    yield tuple(pair)
    for clause in rule:  # and the very arguments that each clause is about
        base = [0] * 6
        for test in clause.tests:
            base[test.argument] |= test.value
        yield tuple(base)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_every_call_is_decided_as_the_rules_say(machine: str, kind: int) -> None:
    rules = template_rules(child_flags=FLAGS, **KINDS[kind])
    program = assemble(rules, machine=machine)
    for name, number in _uapi.calls(machine).items():
        for arguments in interesting(rules.get(name)):
            expected = verdict(rules.get(name), arguments)
            assert evaluate(program, machine=machine, number=number, arguments=arguments) == expected, (name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_list_names_is_not_there(machine: str) -> None:
    program = assemble(template_rules(child_flags=FLAGS, **KINDS[0]), machine=machine)
    known = set(_uapi.calls(machine).values())
    for number in [*range(1200), 1 << 16, 0x3FFFFFFF, 0x40000000, 0x40000000 | 39, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
        if number not in known:
            assert evaluate(program, machine=machine, number=number) == deny(errno.ENOSYS), number


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("arch", [0x40000003, 0xC000003E, 0xC00000B7, 0, 0xFFFFFFFF])
def test_another_architecture_is_the_end(machine: str, arch: int) -> None:
    program = assemble(template_rules(child_flags=FLAGS, **KINDS[0]), machine=machine)
    own = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    number = _uapi.calls(machine)["getpid"]
    assert evaluate(program, machine=machine, number=number, arch=arch) == (ALLOW if arch == own else KILL)


WORDS = st.integers(0, (1 << 64) - 1)
TESTS = st.builds(seccomp.Test, st.integers(0, 5), st.integers(0, LOW), st.just(LOW), st.booleans(), st.just(False))
MASKED = st.integers(0, LOW).flatmap(
    lambda mask: st.builds(seccomp.Test, st.integers(0, 5), WORDS.map(lambda v: v & mask), st.just(mask), st.booleans())
)
WIDE = st.builds(seccomp.Test, st.integers(0, 5), WORDS, st.just(LOW), st.booleans(), st.just(True))
CLAUSES = st.builds(
    Clause, st.sampled_from([ALLOW, NOTIFY, deny(), deny(2)]), st.lists(TESTS | MASKED | WIDE, max_size=4).map(tuple)
)
RULE = st.lists(CLAUSES, max_size=5).map(lambda clauses: (*clauses, Clause(deny(7))))


@settings(max_examples=300)
@given(st.data(), st.dictionaries(st.sampled_from(sorted(_uapi.calls("x86_64"))), RULE, min_size=1, max_size=12))
def test_any_rules_are_compiled_as_they_read(data: st.DataObject, rules: dict[str, tuple[Clause, ...]]) -> None:
    program = assemble(rules, machine="x86_64")
    name = data.draw(st.sampled_from(sorted(rules)))
    near = [test.value for clause in rules[name] for test in clause.tests] + [0]
    word = st.sampled_from(near) | WORDS
    arguments = tuple(data.draw(word) for _ in range(6))
    number = _uapi.calls("x86_64")[name]
    assert evaluate(program, machine="x86_64", number=number, arguments=arguments) == verdict(rules[name], arguments)


def decide(name: str, *arguments: int, kind: int = 0, tail: bool = False) -> int:
    rules = tail_rules(single=True) if tail else template_rules(child_flags=FLAGS, **KINDS[kind])
    program = assemble(rules, machine="x86_64", default=ALLOW if tail else None)
    return evaluate(program, machine="x86_64", number=_uapi.calls("x86_64")[name], arguments=arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (2, 1, 0), NOTIFY),
        ("socketpair", (1, 1 | 0o2004000, 0), ALLOW),
        ("socketpair", (1, 2, 0), deny(errno.EACCES)),
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 3, 0x21), deny(errno.ENOMEM)),
        ("mmap", (0, 4096, 3, 0x23), deny(errno.ENOMEM)),
        ("mmap", (0, 4096, 3, 0x122), deny(errno.ENOMEM)),
        ("mmap", (0, 4096, 3, 0x01), ALLOW),
        ("openat", (0, 0, 0o101, 0o4755), deny()),
        ("openat", (0, 0, 0o101, 0o755), ALLOW),
        ("openat2", (0, 0, 0, 0), deny(errno.ENOSYS)),
        ("prctl", (1, 9), ALLOW),
        ("prctl", (1, 0), deny()),
        ("prctl", (1, 1 << 32 | 9), ALLOW),
        ("prctl", (4, 0), deny()),
        ("prctl", (0x59616D61, 1), deny()),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1 << 40, 1), deny()),
        ("prlimit64", (7, 7, 0, 1), deny()),
        ("clone", (FLAGS,), ALLOW),
        ("clone", (17,), NOTIFY),
        ("clone", (FLAGS | _uapi.CLONE_NEWNS,), NOTIFY),
        ("clone3", (0,), deny(errno.ENOSYS)),
        ("sendto", (3, 0, 1, 0, 1 << 40, 16), NOTIFY),
        ("sendto", (3, 0, 1, 0x20000000, 0, 0), deny(errno.EOPNOTSUPP)),
        ("ioctl", (0, 0x5412, 0), deny(errno.ENOTTY)),
        ("setsockopt", (3, 1, 26), deny(errno.ENOPROTOOPT)),
        ("setsockopt", (3, 1, 7), ALLOW),
        ("personality", (LOW,), ALLOW),
        ("personality", (0x0400000,), deny()),
        ("fcntl", (3, 1031, 1 << 20), deny()),
        ("fcntl", (3, 8, 1), deny()),
    ],
)
def test_what_the_policy_promises(name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert decide(name, *arguments) == expected


def test_without_a_tail_the_long_filter_takes_away_what_the_tail_would() -> None:
    program = assemble(template_rules(child_flags=FLAGS, lean=True, **KINDS[0]), machine="x86_64")
    numbers = _uapi.calls("x86_64")

    def lean(name: str, *arguments: int) -> int:
        return evaluate(program, machine="x86_64", number=numbers[name], arguments=arguments)

    assert lean("seccomp", 1, 0, 1 << 40) == deny()  # or a call could hide what it tries
    assert lean("clone", FLAGS) == NOTIFY  # the supervisor knows the template from a call
    assert lean("clone", FLAGS | 1 << 32) == NOTIFY
    assert lean("prctl", 1, 0) == deny()
    assert lean("landlock_create_ruleset", 0, 0, 0) == deny(errno.ENOSYS)


def test_truncation_without_a_landlock_that_knows_it() -> None:
    assert decide("truncate", kind=1) == deny()
    assert decide("openat", 0, 0, 0o1000, kind=1) == deny(errno.EACCES)
    assert decide("openat", 0, 0, 0o1001, kind=1) == ALLOW
    assert decide("open", 0, 0o1000, kind=1) == deny(errno.EACCES)
    assert decide("openat", 0, 0, 0o1000, kind=0) == ALLOW


def test_without_a_listener_nothing_waits_for_one() -> None:
    rules = template_rules(child_flags=FLAGS, **KINDS[0])
    program = assemble(rules, machine="x86_64", notify=False)
    for number in _uapi.calls("x86_64").values():
        assert evaluate(program, machine="x86_64", number=number) != NOTIFY


def test_the_tail_lets_a_call_signal_itself_only() -> None:
    pid = 4242
    program = assemble(tail_rules(single=True), machine="x86_64", default=ALLOW)
    filled = program.replace(PID_PLACE.to_bytes(4, "little"), pid.to_bytes(4, "little"))
    assert program.count(PID_PLACE.to_bytes(4, "little")) == 2
    for name in ("kill", "tgkill"):
        number = _uapi.calls("x86_64")[name]
        for target, expected in ((pid, ALLOW), (pid + 1, deny()), (0, deny()), ((1 << 32) - 1, deny()), (1, deny())):
            assert evaluate(filled, machine="x86_64", number=number, arguments=(target, 9)) == expected, (name, target)


def test_the_tail_only_takes_away() -> None:
    for single in (True, False):
        program = assemble(tail_rules(single=single), machine="x86_64", default=ALLOW)
        for number in range(600):
            for arguments in ((0,) * 6, (LOW,) * 6):
                action = evaluate(program, machine="x86_64", number=number, arguments=arguments)
                assert action == ALLOW or action & 0xFFFF0000 == _uapi.SECCOMP_RET_ERRNO


def test_a_filter_that_the_kernel_would_not_take_is_an_error() -> None:
    clause = Clause(ALLOW, (seccomp.Test(0, 1, wide=True),) * 60)
    with pytest.raises(ValueError, match="4096"):
        assemble({"read": (clause,) * 60}, machine="x86_64")
    with pytest.raises(KeyError):
        assemble({}, machine="vax")
