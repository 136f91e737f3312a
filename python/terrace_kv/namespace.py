"""Namespaces: everything that makes two blocks interchangeable.

Nothing is shared across namespaces that differ in any field. The daemon checks them; this says what
is sent, and what the daemon calls it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

from . import _blake3, arguments
from .errors import Invalid

KEY_BYTES = 16


@dataclass(frozen=True)
class Namespace:
    """One rank's part of a block is `layers` x `planes` pages of `page_bytes`."""

    # The model and its weights' revision, as the engine names them.
    model: str
    # Pages of a shard. Planes: 2 for K and V, 1 for MLA.
    layers: int
    page_bytes: int
    # Tokens of one block.
    block_tokens: int
    planes: int = 2
    revision: str = ""
    # Element type of the KV cache ("bf16", "fp8_e4m3"), and the order of elements inside a page
    # ("NHD", "HND", "MLA"), as the engine names them.
    dtype: str = ""
    layout: str = "NHD"
    # Tensor parallel ranks: how many shards make a block.
    shard_count: int = 1
    # How the engine hashes blocks, and the width of its hashes in bytes.
    hash_scheme: str = "sha256_cbor"
    hash_bytes: int = 32
    # Separates tenants that must not share; empty when there is only one.
    tenant_salt: bytes = b""

    @property
    def shard_bytes(self) -> int:
        """Bytes of one rank's part of a block."""
        return self.layers * self.planes * self.page_bytes

    def digest(self) -> bytes:
        """What frames and `sessions` call this namespace: 32 bytes."""
        self._check()
        texts = [self.model, self.revision, self.dtype, self.layout]
        numbers = [
            self.layers, self.planes, self.page_bytes,
            self.block_tokens, self.shard_count, self.hash_bytes,
        ]  # fmt: skip
        fields = [text.encode() for text in texts]
        fields += [struct.pack("<I", number) for number in numbers]
        fields += [self.hash_scheme.encode(), self.tenant_salt]
        material = b"".join(struct.pack("<Q", len(field)) + field for field in fields)
        return _blake3.derive_key("terrace 2026-11 namespace v1", material)

    def key(self, block_hash: bytes) -> bytes:
        """The daemon's name for the block that the engine calls `block_hash`: 16 bytes."""
        arguments.one_of("block_hash", block_hash, (bytes, bytearray), "a block's hash, as bytes")
        return _blake3.keyed(self.digest(), block_hash)[:KEY_BYTES]

    def _check(self) -> None:
        """What no message could hold; the daemon checks the rest."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                if arguments.count(field.name, value, least=0) >= 1 << 32:
                    raise Invalid(f"{field.name} is {value}: give a number of 32 bits")
            elif field.type == "str":
                arguments.one_of(field.name, value, str, "text")
            else:
                arguments.one_of(field.name, value, bytes, "bytes")
