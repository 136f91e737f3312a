"""The names that an engine gives its blocks towards the daemon.

They are vLLM's own hashes until its caches are reset, as for new weights. The same tokens then have
another KV under the same hashes, so from there on every name is veiled, and the daemon knows none
of the new ones. Names travel with the jobs: no rank can be behind, and what is under way with
former names ends with them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

# As long as the longest hash.
_VEIL_BYTES = 32


class Names:
    """Makes names of vLLM's hashes."""

    def __init__(self) -> None:
        self._veil: bytes | None = None

    def renew(self) -> None:
        """From now on no block has a name that any engine gave to a block before."""
        # Random, so that a veiled hash equals another's name as seldom as two hashes are equal.
        self._veil = os.urandom(_VEIL_BYTES)

    def of(self, hashes: Sequence[bytes]) -> bytes:
        """One after the other."""
        joined = b"".join(hashes)
        if self._veil is None or not joined:
            return joined
        veil = self._veil[: len(hashes[0])] * len(hashes)
        mixed = int.from_bytes(joined, "big") ^ int.from_bytes(veil, "big")
        return mixed.to_bytes(len(joined), "big")
