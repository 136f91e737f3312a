"""vLLM's block hashes (`--prefix-caching-hash-algo sha256_cbor`) from token ids.

A block's hash is the SHA-256 of the canonical CBOR of `(parent, tokens, extra keys or None)`; the
root's parent is the hash of a seed. Engines that compute these hashes name the same blocks alike
and so share them. The encoder here writes exactly what such a tuple is made of: integers of up to
64 bits, bytes, text, tuples and None. Everything else is refused rather than guessed.

Prompt embeddings (vLLM's `("prompt_embeds", digest)`) are not derived here; pass them to
`block_hash` in `extra_keys`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import arguments
from .errors import Invalid

HASH_SCHEME = "sha256_cbor"
HASH_BYTES = 32

# What vLLM seeds the root with. PYTHONHASHSEED in the engine's environment replaces it.
DEFAULT_SEED = "vllm-none-hash"

# Token ids up to here are written once and remembered: more than any vocabulary.
_REMEMBERED_MAX = 1 << 20


@dataclass(frozen=True)
class Lora:
    """An adapter. vLLM hashes its name and path since 0.32; without a path, its name alone."""

    name: str
    path: str | None = None


@dataclass(frozen=True)
class MmItem:
    """A multimodal input: its identifier (a hash of its content) and the tokens it takes."""

    identifier: str
    offset: int
    length: int


@dataclass(frozen=True)
class ExtraKeys:
    """What makes equal tokens of two requests different blocks."""

    lora: Lora | None = None
    # In the order of their offsets.
    mm: Sequence[MmItem] = ()
    # Separates whoever does not know it; it goes into the first block, and so into all.
    cache_salt: str | None = None

    def of_block(self, start: int, end: int) -> tuple[Any, ...] | None:
        """The extra keys of the block of the tokens `start` to before `end`."""
        keys: list[tuple[Any, ...]] = []
        if self.lora is not None:
            path = () if self.lora.path is None else (self.lora.path,)
            keys.append(("lora", self.lora.name, *path))
        for item in self.mm:
            if item.offset < end and start < item.offset + item.length:
                keys.append(("mm", item.identifier, item.offset - start))
        if start == 0 and self.cache_salt:
            keys.append(("cache_salt", self.cache_salt))
        return tuple(keys) or None

    def check(self) -> None:
        """What no hash could be made of."""
        if self.lora is not None:
            arguments.one_of("extra.lora", self.lora, Lora, "a hashing.Lora")
        items = arguments.one_of("extra.mm", self.mm, Sequence, "a list of hashing.MmItem")
        for at, item in enumerate(items):
            arguments.one_of(f"extra.mm[{at}]", item, MmItem, "a hashing.MmItem")
            arguments.count(f"extra.mm[{at}].offset", item.offset, least=0)
            arguments.count(f"extra.mm[{at}].length", item.length, least=0)


def root(seed: str = DEFAULT_SEED) -> bytes:
    """The parent of every chain's first block."""
    return hashlib.sha256(cbor(seed)).digest()


def block_hash(
    parent: bytes, tokens: Iterable[int], extra_keys: tuple[Any, ...] | None = None
) -> bytes:
    """The hash of one block, 32 bytes."""
    return _hash(parent, arguments.whole_numbers("tokens", tokens), extra_keys)


def _hash(parent: bytes, tokens: list[int], extra_keys: tuple[Any, ...] | None) -> bytes:
    arguments.one_of("parent", parent, bytes, "the hash of the block before")
    body = b"".join(map(_INTEGERS.__getitem__, tokens))
    head = _head(4, len(tokens))
    return hashlib.sha256(b"\x83" + cbor(parent) + head + body + cbor(extra_keys)).digest()


def block_hashes(
    tokens: Iterable[int],
    block_tokens: int,
    extra: ExtraKeys | None = None,
    *,
    parent: bytes | None = None,
    start: int = 0,
    seed: str = DEFAULT_SEED,
) -> list[bytes]:
    """The hashes of all whole blocks of `tokens`, the chain's root first.

    To go on with a chain, give the hash of its last block as `parent`, and as `start` how many
    tokens stand before these.
    """
    block_tokens = arguments.count("block_tokens", block_tokens)
    start = arguments.count("start", start, least=0)
    if extra is not None:
        arguments.one_of("extra", extra, ExtraKeys, "a hashing.ExtraKeys").check()
    if start % block_tokens or (start > 0) != (parent is not None):
        raise Invalid("give `parent` and `start` together, `start` at the start of a block")
    numbers = arguments.whole_numbers("tokens", tokens)
    least = min(numbers, default=0)
    if least < 0:
        raise Invalid(f"token {least} is none: token ids are 0 or more")
    last = root(seed) if parent is None else parent
    hashes = []
    for at in range(0, len(numbers) - block_tokens + 1, block_tokens):
        keys = extra.of_block(start + at, start + at + block_tokens) if extra is not None else None
        last = _hash(last, numbers[at : at + block_tokens], keys)
        hashes.append(last)
    return hashes


def cbor(value: Any) -> bytes:
    """`value` as canonical CBOR (RFC 8949, 4.2): the shortest heads, definite lengths."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        raise Invalid("a truth value is no part of a block hash")
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, (tuple, list)):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    raise Invalid(f"{type(value).__name__} is no part of a block hash: use int, bytes or str")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for extra, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * width:
            return bytes((major << 5 | extra,)) + number.to_bytes(width, "big")
    raise Invalid(f"{number} takes more than 64 bits: it is no part of a block hash")


class _Integers(dict[int, bytes]):
    """Integers as CBOR; token ids are written once."""

    def __missing__(self, number: int) -> bytes:
        written = cbor(number)
        if 0 <= number < _REMEMBERED_MAX:
            self[number] = written
        return written


_INTEGERS = _Integers()
