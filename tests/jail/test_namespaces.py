from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from remit.jail.namespaces import _LAST_ID, _swapped

IDS = st.integers(0, _LAST_ID - 1)


@given(IDS, IDS, IDS)
def test_an_id_map_gives_one_id_to_another_and_leaves_the_rest(inside: int, outside: int, other: int) -> None:
    lines = [tuple(map(int, line.split())) for line in _swapped(inside, outside).splitlines()]

    def mapped(number: int) -> list[int]:
        return [to + number - start for start, to, count in lines if start <= number < start + count]

    assert len(lines) <= 5
    assert mapped(inside) == [outside]
    if other not in (inside, outside):
        assert mapped(other) == [other]
    taken = sorted((to, to + count) for _, to, count in lines)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))  # the kernel refuses overlaps
