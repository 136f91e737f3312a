"""BLAKE3 (github.com/BLAKE3-team/BLAKE3-specs), for the daemon's names of namespaces and blocks.

Short inputs, now and then: a few hundred microseconds a block of 64 bytes. Never for KV bytes.
"""

from __future__ import annotations

import struct

_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))

_CHUNK_BYTES, _BLOCK_BYTES = 1024, 64
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_KEYED_HASH, _DERIVE_KEY_CONTEXT, _DERIVE_KEY_MATERIAL = 16, 32, 64
_MASK = 0xFFFFFFFF

Words = tuple[int, ...]
# What is left to be compressed of a node: chaining value, block, counter, bytes, flags.
_Node = tuple[Words, Words, int, int, int]


def blake3(data: bytes) -> bytes:
    """The hash, 32 bytes."""
    return _digest(data, _IV, 0)


def keyed(key: bytes, data: bytes) -> bytes:
    """The hash under a key of 32 bytes, 32 bytes."""
    return _digest(data, struct.unpack("<8I", key), _KEYED_HASH)


def derive_key(context: str, material: bytes) -> bytes:
    """The key that `context` derives from `material`, 32 bytes."""
    inner = _digest(context.encode(), _IV, _DERIVE_KEY_CONTEXT)
    return _digest(material, struct.unpack("<8I", inner), _DERIVE_KEY_MATERIAL)


def _digest(data: bytes, key: Words, flags: int) -> bytes:
    root = _tree(data, 0, key, flags)
    chaining, block, _, length, node_flags = root
    return struct.pack("<8I", *_compress(chaining, block, 0, length, node_flags | _ROOT))


def _tree(data: bytes, counter: int, key: Words, flags: int) -> _Node:
    if len(data) <= _CHUNK_BYTES:
        return _chunk(data, counter, key, flags)
    # The left side holds the largest power of two of chunks that leaves something to the right.
    left_chunks = 1 << (((len(data) - 1) // _CHUNK_BYTES).bit_length() - 1)
    cut = left_chunks * _CHUNK_BYTES
    left = _compress(*_tree(data[:cut], counter, key, flags))
    right = _compress(*_tree(data[cut:], counter + left_chunks, key, flags))
    return key, left + right, 0, _BLOCK_BYTES, flags | _PARENT


def _chunk(data: bytes, counter: int, key: Words, flags: int) -> _Node:
    starts = range(0, max(len(data), 1), _BLOCK_BYTES)
    chaining, start_flag = key, _CHUNK_START
    for start in starts:
        piece = data[start : start + _BLOCK_BYTES]
        block = struct.unpack("<16I", piece.ljust(_BLOCK_BYTES, b"\0"))
        node_flags = flags | start_flag
        if start == starts[-1]:
            break
        chaining = _compress(chaining, block, counter, len(piece), node_flags)
        start_flag = 0
    return chaining, block, counter, len(piece), node_flags | _CHUNK_END


def _compress(chaining: Words, block: Words, counter: int, length: int, flags: int) -> Words:
    state = [
        *chaining, *_IV[:4], counter & _MASK, counter >> 32 & _MASK, length, flags,
    ]  # fmt: skip
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(_COLUMNS + _DIAGONALS):
            _mix(state, a, b, c, d, block[2 * index], block[2 * index + 1])
        block = tuple(block[place] for place in _PERMUTATION)
    return tuple(state[place] ^ state[place + 8] for place in range(8))


def _mix(state: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        state[a] = state[a] + state[b] + word & _MASK
        state[d] = _turned(state[d] ^ state[a], first)
        state[c] = state[c] + state[d] & _MASK
        state[b] = _turned(state[b] ^ state[c], second)


def _turned(word: int, bits: int) -> int:
    return (word >> bits | word << 32 - bits) & _MASK
