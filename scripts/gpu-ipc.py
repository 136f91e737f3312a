#!/usr/bin/env python3
"""An engine of another process lends its pool on the GPU (PyTorch): stores, loads, compares.

Started by scripts/gpu-test, which has made the environment. With `--die` the engine ends in
mid-store without a word, as one that was killed; what it left is looked at by the next one without.
With `--stand SECONDS` its stream stands still for so long after it was told to store.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch

from terrace_kv import Client, Namespace, Operation, PoolHandle
from terrace_kv.cuda import CudaPool, OpenedHbm
from terrace_kv.pool import PageLayout

LAYERS, PLANES, SLOTS, PAGE_BYTES, BLOCKS = 32, 2, 256, 32768, 64

# What an engine that dies stores: blocks that the next one knows.
LEFT_FIRST, LEFT_BYTE = 1 << 100, 0xA5

# Stores one after the other, more than the pool has events, and the slots of each.
CALLS = 12
CALL_BLOCKS = BLOCKS // CALLS
CALL_SLOTS = [slice(call * CALL_BLOCKS, (call + 1) * CALL_BLOCKS) for call in range(CALLS)]

# Work before each store, in matrices multiplied: half a second on an H100.
LONG = 200

# Of a GPU's clock, which no GPU so far exceeds by much.
CYCLES_A_SECOND = 1_900_000_000


class Engine:
    """A pool on the GPU, and a client."""

    def __init__(self, client: Client, namespace: Namespace) -> None:
        shape = (PLANES, SLOTS, PAGE_BYTES)
        self.tensors = [
            torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda") for _ in range(LAYERS)
        ]
        layout = PageLayout(SLOTS, 0, 0, SLOTS * PAGE_BYTES, PAGE_BYTES)
        # The daemon may write as soon as it has the pool.
        torch.cuda.synchronize()
        self.pool = CudaPool(namespace, layout, self.tensors)
        self.client = client
        self.handle = client.register_pool(self.pool)

    def warm_up(self, byte: int | None) -> None:
        """Does once what will be done behind other work, and leaves other bytes than it will: loading
        a kernel, and asking the driver for memory, may wait for the GPU."""
        kept = [self.write(slots, busy=1) for slots in CALL_SLOTS]
        self.write(slice(BLOCKS), byte)
        for tensor in self.tensors:
            tensor[:, BLOCKS : 2 * BLOCKS] = 0
        torch.cuda.synchronize()
        del kept

    def store(
        self, hashes: list[bytes], first_slot: int = 0, parent: bytes | None = None
    ) -> Operation:
        """Has the daemon store what the stream has still to compute, and does not wait for it."""
        self.pool.record(torch.cuda.current_stream().cuda_stream)
        slots = range(first_slot, first_slot + len(hashes))
        stored = self.client.store(hashes, self.handle, slots, parent=parent)
        if torch.cuda.current_stream().query():
            sys.exit("the GPU was done before the daemon was asked: no copy had to wait")
        return stored.op

    def check(self, hashes: list[bytes], wanted: list[torch.Tensor]) -> None:
        """Loads the blocks and compares them. When the daemon is asked, the stream has yet to write
        other bytes to the same slots."""
        target = slice(BLOCKS, BLOCKS + len(hashes))
        keep_busy(LONG)
        for tensor in self.tensors:
            tensor[:, target] = 0
        self.pool.record(torch.cuda.current_stream().cuda_stream)
        loaded = self.client.load(hashes, self.handle, range(SLOTS)[target])
        if torch.cuda.current_stream().query():
            sys.exit("the GPU was done before the daemon was asked: no load had to wait")
        if loaded.result().failed:
            sys.exit(f"blocks failed: {loaded.result()}")
        found = [tensor[:, target].clone() for tensor in self.tensors]
        torch.cuda.synchronize()
        if not all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True)):
            sys.exit("the bytes that came back differ")

    def write(self, slots: slice, byte: int | None = None, busy: int = LONG) -> list[torch.Tensor]:
        """Fills the slots, with random bytes unless one is named, after much other work on the
        stream, so that a copy that does not wait for it finds the old bytes."""
        keep_busy(busy)
        filled = []
        for tensor in self.tensors:
            part = torch.randint(0, 256, tensor[:, slots].shape, dtype=torch.uint8, device="cuda")
            if byte is not None:
                part.fill_(byte)
            tensor[:, slots] = part
            filled.append(part)
        return filled


def main(socket: str, die: bool, stand_s: int) -> None:
    namespace = Namespace(model="gpu-test", layers=LAYERS, page_bytes=PAGE_BYTES, block_tokens=16)
    # Blocks of this run's own: the bytes are drawn anew, and what is known is not stored again.
    hashes = hashes_from(LEFT_FIRST if die else os.getpid() << 64)
    with Client(socket, client_id=f"gpu-test-{os.getpid()}", namespace=namespace) as client:
        engine = Engine(client, namespace)
        if not die:
            check_left(client, engine.handle, engine.tensors)
        engine.warm_up(0 if die else None)
        if stand_s:
            stand(engine, hashes, stand_s)
            return
        wanted = engine.write(slice(BLOCKS), LEFT_BYTE if die else None)
        stored = engine.store(hashes)
        if die:
            os._exit(9)
        stored.result()
        engine.check(hashes, wanted)
        read_in_place(client, hashes, wanted)
        check_many_calls(engine)
        # A session of its own opens the same handles again.
        client.reconnect()
        if not client.wait_connected(10):
            sys.exit(f"the daemon does not take the pool a second time: {client.away}")
        check_many_calls(engine)
    print(f"{BLOCKS} blocks of {LAYERS} x {PLANES} x {PAGE_BYTES} bytes came back as they went")


def stand(engine: Engine, hashes: list[bytes], seconds: int) -> None:
    """Is not done with what it stores before so long; says when the daemon was asked."""
    since = time.monotonic()
    torch.cuda._sleep(seconds * CYCLES_A_SECOND)
    wanted = engine.write(slice(BLOCKS))
    stored = engine.store(hashes)
    print("it stands", flush=True)
    stored.result(timeout_s=10 * seconds)
    if time.monotonic() - since < seconds / 2:
        sys.exit("it was stored before the engine had computed it")
    engine.check(hashes, wanted)
    print(f"what waited for {time.monotonic() - since:.0f} s came back as it went")


def check_many_calls(engine: Engine) -> None:
    """Stores on end, each behind work of its own, over more calls than there are events."""
    hashes = hashes_from(int.from_bytes(os.urandom(8), "big") << 64)[: CALLS * CALL_BLOCKS]
    wanted, stored = [], []
    for slots in CALL_SLOTS:
        wanted.append(engine.write(slots, busy=LONG // CALLS))
        # Of one chain: each call's blocks follow on those of the call before.
        parent = hashes[slots.start - 1] if slots.start else None
        stored.append(engine.store(hashes[slots], slots.start, parent))
    for op in stored:
        if op.result().failed:
            sys.exit(f"blocks were not stored: {op.result()}")
    together = [torch.cat(parts, dim=1) for parts in zip(*wanted, strict=True)]
    engine.check(hashes, together)


def hashes_from(first: int) -> list[bytes]:
    return [(first + block).to_bytes(32, "big") for block in range(BLOCKS)]


def keep_busy(times: int) -> None:
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(times):
        busy = busy @ busy / 64


def check_left(client: Client, handle: PoolHandle, tensors: list[torch.Tensor]) -> None:
    """What an engine that died has left is right or not there: never what was not computed yet."""
    hashes = hashes_from(LEFT_FIRST)
    found = client.lookup(hashes, request=2).matched_blocks
    if found:
        failed = set(client.load(hashes[:found], handle, range(found), request=2).result().failed)
        right = all(
            bool((tensor[:, index] == LEFT_BYTE).all())
            for index in range(found)
            if index not in failed
            for tensor in tensors
        )
        if not right:
            sys.exit("an engine that died left blocks with bytes that it had not computed")
    client.end_request(2)
    print(f"{found} of {BLOCKS} blocks of an engine that died are there")


class InPlace:
    """Memory that torch takes as it is."""

    def __init__(self, interface: dict[str, object]) -> None:
        self.__cuda_array_interface__ = interface


def read_in_place(client: Client, hashes: list[bytes], wanted: list[torch.Tensor]) -> None:
    """Compares blocks of the daemon's HBM tier where they lie."""
    lent = client.borrow(hashes[:16], request=1)
    if len(lent.starts) != 16:
        sys.exit(f"only {sorted(lent.starts)} of 16 blocks were lent: are they in HBM?")
    opened = OpenedHbm(client.hbm())
    for index in lent.starts:
        there = torch.as_tensor(InPlace(opened.pages(lent, index)), device="cuda")[0]
        if not all(torch.equal(there[at], one[:, index]) for at, one in enumerate(wanted)):
            sys.exit(f"block {index} differs where it lies in the HBM tier")
    torch.cuda.synchronize()
    opened.close()
    client.give_back(1)
    print(f"{len(lent.starts)} blocks were read in place")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--stand", metavar="SECONDS", type=int, default=0)
    args = parser.parse_args()
    main(args.socket, args.die, args.stand)
