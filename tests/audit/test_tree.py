from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.audit.tree import (
    EMPTY_ROOT,
    Edge,
    consistency_proof,
    consistency_ranges,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves and roots that the Certificate Transparency implementations of RFC 6962 test with.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, 2.1, word for word: the oracle."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive(leaves[:k]), naive(leaves[k:]))


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*naive_path(index, leaves[:k]), naive(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive(leaves[:k])]


def naive_subproof(old: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if old == len(leaves):
        return [] if whole else [naive(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if old <= k:
        return [*naive_subproof(old, leaves[:k], whole=whole), naive(leaves[k:])]
    return [*naive_subproof(old - k, leaves[k:], whole=False), naive(leaves[:k])]


def hashes(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def test_the_known_roots() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    leaves = [leaf_hash(data) for data in LEAVES]
    assert [root_of(leaves[: count + 1]).hex() for count in range(8)] == ROOTS


def test_a_known_inclusion_and_a_known_consistency_proof() -> None:
    leaves = [leaf_hash(data) for data in LEAVES]
    assert [node.hex() for node in inclusion_proof(5, 8, lambda a, b: naive(leaves[a:b]))] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [node.hex() for node in consistency_proof(6, 8, lambda a, b: naive(leaves[a:b]))] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@given(st.lists(st.binary(max_size=8), max_size=300))
def test_the_edge_has_the_root_of_the_definition_at_every_size(data: list[bytes]) -> None:
    leaves = [leaf_hash(item) for item in data]
    edge = Edge()
    for size, leaf in enumerate(leaves):
        assert edge.root() == naive(leaves[:size]) if size < 40 else True
        edge.append(leaf)
        edge = Edge.parse(edge.size, edge.to_bytes())
    assert edge.root() == naive(leaves)
    assert len(edge.to_bytes()) == 32 * len(leaves).bit_count()


@given(st.integers(0, 700))
def test_the_completed_nodes_are_the_roots_of_their_ranges(size: int) -> None:
    leaves, edge = hashes(size), Edge()
    completed = [node for leaf in leaves for node in edge.append(leaf)]
    assert [(level, position) for level, position, _ in completed] == [(8, at) for at in range(size // 256)]
    assert all(node == naive(leaves[at * 256 : at * 256 + 256]) for _, at, node in completed)


def test_nodes_of_two_levels_are_completed_at_once() -> None:
    edge, completed = Edge(), []
    for leaf in hashes(65536):
        completed += edge.append(leaf)
    assert [node[:2] for node in completed[-2:]] == [(8, 255), (16, 0)]
    assert completed[-1][2] == edge.root()


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_an_inclusion_proof_is_the_path_of_the_definition_and_holds(case: tuple[int, int]) -> None:
    index, size = case
    leaves = hashes(size)
    proof = inclusion_proof(index, size, lambda a, b: naive(leaves[a:b]))
    assert proof == naive_path(index, leaves)
    assert verify_inclusion(leaves[index], index, size, proof, naive(leaves))


@given(st.integers(1, 200).flatmap(lambda new: st.tuples(st.integers(1, new), st.just(new))))
def test_a_consistency_proof_is_that_of_the_definition_and_holds(case: tuple[int, int]) -> None:
    old, new = case
    leaves = hashes(new)
    proof = consistency_proof(old, new, lambda a, b: naive(leaves[a:b]))
    assert proof == naive_subproof(old, leaves, whole=True)
    assert verify_consistency(old, new, naive(leaves[:old]), naive(leaves), proof)


@given(st.integers(2, 100), st.data())
def test_no_other_leaf_place_size_or_proof_is_shown_to_be_in_the_tree(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = hashes(size)
    root = naive(leaves)
    proof = naive_path(index, leaves)
    assert verify_inclusion(leaves[index], index, size, proof, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda value: value != index))
    assert not verify_inclusion(leaves[other], index, size, proof, root)
    assert not verify_inclusion(leaves[index], other, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, proof[:-1], root)
    assert not verify_inclusion(leaves[index], index, size, [*proof, root], root)
    assert not verify_inclusion(leaves[index], index, size, proof, leaf_hash(b"another"))
    assert not verify_inclusion(leaves[index], -1, size, proof, root)
    assert not verify_inclusion(leaves[index], size, size, proof, root)
    at = data.draw(st.integers(0, len(proof) - 1))
    assert not verify_inclusion(leaves[index], index, size, [*proof[:at], root, *proof[at + 1 :]], root)
    assert not verify_inclusion(leaves[index], index, size, [*proof[:at], b"short", *proof[at + 1 :]], root)


@given(st.integers(2, 100), st.data())
def test_no_changed_history_is_shown_to_be_consistent(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    leaves = hashes(new)
    rewritten = [leaf_hash(b"forged") if at == changed else leaf for at, leaf in enumerate(leaves)]
    proof = naive_subproof(old, leaves, whole=True)
    assert verify_consistency(old, new, naive(leaves[:old]), naive(leaves), proof)
    assert not verify_consistency(old, new, naive(leaves[:old]), naive(rewritten), proof)
    assert not verify_consistency(
        old, new, naive(leaves[:old]), naive(rewritten), naive_subproof(old, rewritten, whole=True)
    )
    assert not verify_consistency(old, new, naive(rewritten[:old]), naive(leaves), proof)
    assert not verify_consistency(old, new, naive(leaves[:old]), naive(leaves), proof[:-1])
    assert not verify_consistency(old, new, naive(leaves[:old]), naive(leaves), [*proof, proof[-1]])
    assert not verify_consistency(new, old, naive(leaves), naive(leaves[:old]), proof)


def test_the_empty_tree_begins_every_tree_and_needs_no_proof() -> None:
    root = naive(hashes(3))
    assert verify_consistency(0, 3, EMPTY_ROOT, root, [])
    assert not verify_consistency(0, 3, EMPTY_ROOT, root, [root])
    assert not verify_consistency(0, 3, root, root, [])
    assert verify_consistency(3, 3, root, root, [])
    assert not verify_consistency(3, 3, root, root, [root])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 4), (4, 4)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(index, size, lambda _a, _b: b"")


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4), (-1, 4)])
def test_there_is_no_proof_between_trees_that_do_not_follow(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no proof"):
        consistency_ranges(old, new)


@pytest.mark.parametrize(("size", "data"), [(1, b""), (0, b"x" * 32), (2, b"x" * 31), (3, b"x" * 63), (-1, b"")])
def test_what_is_no_edge_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="right edge"):
        Edge.parse(size, data)
