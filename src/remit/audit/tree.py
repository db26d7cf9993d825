"""The Merkle tree of RFC 6962 (section 2.1; the verification algorithms are those of RFC 9162, 2.1.3 and 2.1.4).

Pure functions on hashes. A tree that only grows needs no more than its right edge, one hash for each bit that is set in
its size: `Edge`. That makes an append O(log n) at worst and O(1) on average, and its memory flat.

A proof is a list of hashes of ranges of leaves. `inclusion_ranges` and `consistency_ranges` say which ranges, and
whoever has the data says what they hash to: so the proofs need not know where the leaves are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

__all__ = [
    "EMPTY_ROOT",
    "STORED_LEVELS",
    "Edge",
    "consistency_proof",
    "consistency_ranges",
    "inclusion_proof",
    "inclusion_ranges",
    "leaf_hash",
    "node_hash",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]

EMPTY_ROOT = sha256(b"").digest()
HASH_SIZE = 32

STORED_LEVELS = 8
"""Complete subtrees of 2**8, 2**16, ... leaves are kept: with them any range needs at most 256 hashes a level."""

Range = tuple[int, int]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class Edge:
    """The right edge of a growing tree: the roots of the complete subtrees that make it up, widest first."""

    __slots__ = ("_roots", "size")

    def __init__(self, size: int = 0, roots: Iterable[bytes] = ()) -> None:
        self.size = size
        self._roots = list(roots)
        if size < 0 or len(self._roots) != size.bit_count() or any(len(root) != HASH_SIZE for root in self._roots):
            raise ValueError(f"not the right edge of a tree of {size} leaves")

    @classmethod
    def parse(cls, size: int, data: bytes) -> Edge:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: it is not the right edge of a tree of that size.
        """
        return cls(size, [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)])

    def to_bytes(self) -> bytes:
        """The hashes one after the other, 32 bytes each."""
        return b"".join(self._roots)

    def copy(self) -> Edge:
        """An edge of its own."""
        return Edge(self.size, self._roots)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add the hash of a leaf; return the stored-level nodes that it completes, as (level, position, hash)."""
        completed: list[tuple[int, int, bytes]] = []
        roots, rest, level, node = self._roots, self.size, 0, leaf
        while rest & 1:
            node = sha256(b"\x01" + roots.pop() + node).digest()
            rest >>= 1
            level += 1
            if level % STORED_LEVELS == 0:
                completed.append((level, rest, node))
        roots.append(node)
        self.size += 1
        return completed

    def root(self, rest: bytes | None = None) -> bytes:
        """The hash of the whole tree; `rest`: the root over further leaves, fewer than the least part of this has."""
        node = rest
        for left in reversed(self._roots):
            node = left if node is None else node_hash(left, node)
        return EMPTY_ROOT if node is None else node


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over these hashes of leaves."""
    edge = Edge()
    for leaf in leaves:
        edge.append(leaf)
    return edge.root()


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges of leaves whose hashes prove leaf `index` (from 0) in a tree of `size` (RFC 6962, 2.1.1: PATH).

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """The ranges whose hashes prove that the tree of `old` leaves begins that of `new` (RFC 6962, 2.1.2: PROOF).

    Raises:
        ValueError: not 0 < old <= new.
    """
    if not 0 < old <= new:
        raise ValueError(f"no proof from a tree of {old} to one of {new}")
    start, end, path, whole = 0, new, [], True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start, whole = middle, False
    if not whole:
        path.append((start, end))
    return path[::-1]


def inclusion_proof(index: int, size: int, range_hash: Callable[[int, int], bytes]) -> list[bytes]:
    """The inclusion proof of a leaf; `range_hash(start, end)` is the root over the leaves start <= i < end."""
    return [range_hash(start, end) for start, end in inclusion_ranges(index, size)]


def consistency_proof(old: int, new: int, range_hash: Callable[[int, int], bytes]) -> list[bytes]:
    """The consistency proof between two sizes; `range_hash` as in `inclusion_proof`."""
    return [range_hash(start, end) for start, end in consistency_ranges(old, new)]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows the hash `leaf` at `index` in the tree of `size` with `root` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or any(len(node) != HASH_SIZE for node in proof):
        return False
    first, second, node = index, size - 1, leaf
    for sibling in proof:
        if second == 0:
            return False
        if first & 1 or first == second:
            node = node_hash(sibling, node)
            while not first & 1 and first:
                first, second = first >> 1, second >> 1
        else:
            node = node_hash(node, sibling)
        first, second = first >> 1, second >> 1
    return second == 0 and node == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `old` leaves begins the tree of `new` (RFC 9162, 2.1.4.2).

    The empty tree begins every tree: no proof is needed, and none must be given.
    """
    if any(len(node) != HASH_SIZE for node in proof) or not 0 <= old <= new:
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:  # a power of two is a whole subtree, whose hash the caller has: it is not in the proof
        path.insert(0, old_root)
    if not path:
        return False
    first, second = old - 1, new - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if second == 0:
            return False
        if first & 1 or first == second:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while not first & 1 and first:
                first, second = first >> 1, second >> 1
        else:
            new_node = node_hash(new_node, sibling)
        first, second = first >> 1, second >> 1
    return second == 0 and old_node == old_root and new_node == new_root
