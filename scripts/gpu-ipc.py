#!/usr/bin/env python3
"""An engine of another process lends its pool on the GPU (PyTorch): stores, loads, compares.

Started by scripts/gpu-test, which has made the environment. With `--die` the engine ends in
mid-store without a word, as one that was killed; what it left is looked at by the next one without.
"""

from __future__ import annotations

import os
import sys

import torch

from terrace_kv import Client, Namespace, PoolHandle
from terrace_kv.cuda import CudaPool, OpenedHbm
from terrace_kv.pool import PageLayout

LAYERS, PLANES, SLOTS, PAGE_BYTES, BLOCKS = 32, 2, 256, 32768, 64

# What an engine that dies stores: blocks that the next one knows.
LEFT_FIRST, LEFT_BYTE = 1 << 100, 0xA5


def main(socket: str, die: bool) -> None:
    namespace = Namespace(model="gpu-test", layers=LAYERS, page_bytes=PAGE_BYTES, block_tokens=16)
    shape = (PLANES, SLOTS, PAGE_BYTES)
    tensors = [
        torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda") for _ in range(LAYERS)
    ]
    layout = PageLayout(SLOTS, 0, 0, SLOTS * PAGE_BYTES, PAGE_BYTES)
    # Blocks of this run's own: the bytes are drawn anew, and a block that is known is not stored again.
    hashes = hashes_from(LEFT_FIRST if die else os.getpid() << 64)
    with Client(socket, client_id=f"gpu-test-{os.getpid()}", namespace=namespace) as client:
        pool = CudaPool(namespace, layout, tensors)
        handle = client.register_pool(pool)
        stream = torch.cuda.current_stream().cuda_stream
        if not die:
            check_left(client, handle, tensors)
        # With other bytes first: a kernel is loaded when it is first used, which waits for the GPU.
        write(tensors, 0 if die else None)
        torch.cuda.synchronize()
        wanted = write(tensors, LEFT_BYTE if die else None)
        # Not waited for here: the daemon's copies wait for it.
        pool.record(stream)
        stored = client.store(hashes, handle, range(BLOCKS))
        if torch.cuda.current_stream().query():
            sys.exit("the GPU was done before the daemon was asked: no copy had to wait")
        if die:
            os._exit(9)
        stored.op.result()
        target = range(BLOCKS, 2 * BLOCKS)
        pool.record(stream)
        loaded = client.load(hashes, handle, target).result()
        found = [tensor[:, BLOCKS : 2 * BLOCKS].clone() for tensor in tensors]
        torch.cuda.synchronize()
        alike = all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
        if not alike or loaded.failed:
            sys.exit(f"the bytes that came back differ, or blocks failed: {loaded}")
        read_in_place(client, hashes, wanted)
    print(f"{BLOCKS} blocks of {LAYERS} x {PLANES} x {PAGE_BYTES} bytes came back as they went")


def hashes_from(first: int) -> list[bytes]:
    return [(first + block).to_bytes(32, "big") for block in range(BLOCKS)]


def check_left(client: Client, handle: PoolHandle, tensors: list[torch.Tensor]) -> None:
    """What an engine that died has left is right or not there: never what it had not computed yet."""
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


def write(tensors: list[torch.Tensor], byte: int | None) -> list[torch.Tensor]:
    """Fills the first slots, with random bytes unless one is named, after much other work on the
    stream, so that a copy that does not wait for it finds the old bytes."""
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        busy = busy @ busy / 64
    filled = []
    for tensor in tensors:
        part = torch.randint(0, 256, tensor[:, :BLOCKS].shape, dtype=torch.uint8, device="cuda")
        if byte is not None:
            part.fill_(byte)
        tensor[:, :BLOCKS] = part
        filled.append(part)
    return filled


if __name__ == "__main__":
    main(sys.argv[1], "--die" in sys.argv[2:])
