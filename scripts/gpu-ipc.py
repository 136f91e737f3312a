#!/usr/bin/env python3
"""An engine of another process lends its pool on the GPU (PyTorch): stores, loads, compares.

Started by scripts/gpu-test, which has made the environment. With `--die` the engine ends in
mid-store without a word, as one that was killed.
"""

from __future__ import annotations

import os
import sys

import torch

from terrace_kv import Client, Namespace
from terrace_kv.cuda import CudaPool
from terrace_kv.pool import PageLayout

LAYERS, PLANES, SLOTS, PAGE_BYTES, BLOCKS = 32, 2, 256, 32768, 64


def main(socket: str, die: bool) -> None:
    namespace = Namespace(model="gpu-test", layers=LAYERS, page_bytes=PAGE_BYTES, block_tokens=16)
    shape = (PLANES, SLOTS, PAGE_BYTES)
    tensors = [
        torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda") for _ in range(LAYERS)
    ]
    layout = PageLayout(SLOTS, 0, 0, SLOTS * PAGE_BYTES, PAGE_BYTES)
    hashes = [block.to_bytes(32, "big") for block in range(1, BLOCKS + 1)]
    with Client(socket, client_id=f"gpu-test-{os.getpid()}", namespace=namespace) as client:
        pool = CudaPool(namespace, layout, tensors)
        handle = client.register_pool(pool)
        stream = torch.cuda.current_stream().cuda_stream
        wanted = write(tensors)
        # Not waited for here: the daemon's copies wait on the GPU.
        pool.record(stream)
        stored = client.store(hashes, handle, range(BLOCKS))
        if die:
            os._exit(9)
        stored.op.wait()
        target = range(BLOCKS, 2 * BLOCKS)
        pool.record(stream)
        loaded = client.load(hashes, handle, target).wait()
        found = [tensor[:, BLOCKS : 2 * BLOCKS].clone() for tensor in tensors]
        torch.cuda.synchronize()
        alike = all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
        if not alike or loaded.failed:
            sys.exit(f"the bytes that came back differ, or blocks failed: {loaded}")
    print(f"{BLOCKS} blocks of {LAYERS} x {PLANES} x {PAGE_BYTES} bytes came back as they went")


def write(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Fills the first slots after much other work on the stream, so that a copy that does not wait
    for it finds the old bytes."""
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        busy = busy @ busy / 64
    filled = []
    for tensor in tensors:
        part = torch.randint(0, 256, tensor[:, :BLOCKS].shape, dtype=torch.uint8, device="cuda")
        tensor[:, :BLOCKS] = part
        filled.append(part)
    return filled


if __name__ == "__main__":
    main(sys.argv[1], "--die" in sys.argv[2:])
