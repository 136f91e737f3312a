"""Figures of the client against a daemon of its own: blocks in and out, beside numpy's own copy.

    scripts/test-python --bench

Everything is touched before it is measured. "pool" figures are of blocks that lie in the registered
pool, as an engine's KV does; "array" figures add numpy's copy between the pool and an array outside
of it. numpy copies block by block, as the daemon must; "copy as one" is a single copy of a whole
round, for which the C library takes other instructions. Rates are the median of the rounds, in GB/s
(1e9 bytes); all is measured in turns, since the machine's speed changes from minute to minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from rig import Daemon
from terrace_kv import Client, HostPool, Namespace, PageLayout, PoolHandle, hashing

LAYERS, PLANES, PAGE_BYTES = 32, 2, 64 << 10
BLOCK_BYTES = LAYERS * PLANES * PAGE_BYTES
LOOKUP_KEYS = 6000


class Rig:
    """A client whose pool holds one round's blocks twice: to store from, and to load to."""

    def __init__(self, daemon: Daemon, layout: str, blocks: int, batch: int) -> None:
        self.space = Namespace("bench", LAYERS, PAGE_BYTES, block_tokens=16, layout=layout)
        self.blocks, self.batch = blocks, batch
        self.client = Client(daemon.socket, client_id=layout, namespace=self.space)
        make = getattr(PageLayout, layout)
        self.pool = HostPool.create(self.space, 2 * blocks, make(self.space, 2 * blocks))
        self.handle: PoolHandle = self.client.register_pool(self.pool)
        shape = (blocks, LAYERS, PLANES, PAGE_BYTES)
        self.array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        self.spare = np.ones_like(self.array)
        self.sources, self.targets = self.pool.view()[:blocks], self.pool.view()[blocks:]
        self.sources[:] = self.array
        self.targets[:] = 0

    def store(self, hashes: list[bytes]) -> None:
        under_way = []
        for at in range(0, self.blocks, self.batch):
            run = slice(at, at + self.batch)
            parent = hashes[at - 1] if at else None
            slots = range(self.blocks)[run]
            stored = self.client.store(hashes[run], self.handle, slots, parent=parent)
            assert stored.taken_blocks == len(slots), stored
            under_way.append(stored.op)
        assert all(op.result().ok for op in under_way)

    def load(self, hashes: list[bytes]) -> None:
        slots = range(self.blocks, 2 * self.blocks)
        runs = [slice(at, at + self.batch) for at in range(0, self.blocks, self.batch)]
        under_way = [self.client.load(hashes[run], self.handle, slots[run]) for run in runs]
        assert all(op.result().ok for op in under_way)

    def rounds(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each round, by what was done."""
        took: dict[str, list[float]] = {}

        def timed(what: str, do: Callable[[], object]) -> None:
            before = time.perf_counter()
            do()
            took.setdefault(what, []).append(time.perf_counter() - before)

        for number in range(rounds):
            first, second = chain(self.blocks, 2 * number), chain(self.blocks, 2 * number + 1)
            timed("numpy copy", self.copy_blocks)
            timed("put, pool", lambda first=first: self.store(first))
            timed("copy as one", lambda: np.copyto(self.spare, self.array))
            timed("get, pool", lambda first=first: self.load(first))
            assert np.array_equal(self.targets, self.array)
            timed("put, array", lambda second=second: self.put_array(second))
            timed("get, array", lambda second=second: self.get_array(second))
            assert np.array_equal(self.spare, self.array)
        return took

    def copy_blocks(self) -> None:
        for target, source in zip(self.spare, self.array, strict=True):
            np.copyto(target, source)

    def put_array(self, hashes: list[bytes]) -> None:
        np.copyto(self.sources, self.array)
        self.store(hashes)

    def get_array(self, hashes: list[bytes]) -> None:
        self.load(hashes)
        np.copyto(self.spare, self.targets)

    def close(self) -> None:
        self.client.close()
        self.pool.close()


def chain(blocks: int, seed: int) -> list[bytes]:
    return hashing.block_hashes([seed] * blocks * 16, 16)


def lookups(daemon: Daemon, rounds: int) -> tuple[list[float], float]:
    """Seconds of each Lookup of LOOKUP_KEYS blocks that are all there, and of making the hashes."""
    space = Namespace("keys", 1, 4096, block_tokens=16, planes=1)
    with Client(daemon.socket, client_id="keys", namespace=space) as client:
        with HostPool.create(space, LOOKUP_KEYS) as pool:
            handle = client.register_pool(pool)
            tokens = [place * 31 % 128_000 for place in range(LOOKUP_KEYS * 16)]
            hashing.block_hashes(tokens, 16)
            before = time.perf_counter()
            hashes = hashing.block_hashes(tokens, 16)
            hashing_s = time.perf_counter() - before
            assert client.store(hashes, handle, range(LOOKUP_KEYS)).op.result().ok
            took = []
            for _ in range(rounds):
                before = time.perf_counter()
                found = client.lookup(hashes)
                took.append(time.perf_counter() - before)
                assert found.matched_blocks == LOOKUP_KEYS
                client.release(found)
            return took, hashing_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=64, help="blocks of 4 MiB in a round")
    parser.add_argument("--batch", type=int, default=8, help="blocks of a call; all calls at once")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dram", default="6GiB", help="the daemon's DRAM tier")
    given = parser.parse_args()
    daemon = Daemon(**{"dram-capacity": given.dram, "dram-staging": "256MiB"})
    try:
        # It touches all its memory first, which takes long on a machine that is short of it.
        daemon.start(patience_s=180)
        print(f"{given.blocks} blocks of {BLOCK_BYTES >> 20} MiB a round, {given.batch} a call")
        for layout, pages in (("contiguous", "one run of 4 MiB"), ("paged", "64 pages of 64 KiB")):
            rig = Rig(daemon, layout, given.blocks, given.batch)
            took = rig.rounds(given.rounds)
            rig.close()
            copy = rate(given.blocks, took["numpy copy"])
            print(f"\n{layout}: a block is {pages}")
            for what, seconds in took.items():
                gbs = rate(given.blocks, seconds)
                print(f"  {what:<12} {gbs:6.2f} GB/s  {100 * gbs / copy:4.0f}% of numpy's copy")
        took, hashing_s = lookups(daemon, 300)
        ordered = sorted(took)
        p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
        print(f"\nlookup of {LOOKUP_KEYS} keys: p50 {1e3 * p50:.2f} ms, p99 {1e3 * p99:.2f} ms")
        print(f"hashing {LOOKUP_KEYS} blocks of 16 tokens: {1e3 * hashing_s:.1f} ms")
    finally:
        daemon.close()


def rate(blocks: int, seconds: list[float]) -> float:
    return blocks * BLOCK_BYTES / statistics.median(seconds) / 1e9


if __name__ == "__main__":
    main()
