#!/usr/bin/env python3
"""What Terrace's copies cost an engine that decodes on the same GPU. Started by scripts/gpu-test.

    scripts/gpu-decode.py SOCKET [SECONDS]

Steps like a decoder's (a CUDA graph of matrix products that reads 1.4 GB of weights for a batch of
16) run alone, and then while blocks go between this process's pool and the daemon's HBM tier, or its DRAM
where it has none, as fast as they go. Prints how long a step takes and how fast the copies are.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import threading
import time
from collections import deque

import torch

from terrace_kv import Client, Namespace
from terrace_kv.cuda import CudaPool
from terrace_kv.pool import PageLayout

BATCH, WIDTH, INNER, LAYERS = 16, 4096, 14336, 12
BLOCK_BYTES, BLOCKS = 2 << 20, 64
# Calls under way at a time.
DEPTH = 3
BESIDE = [(way, page_bytes) for page_bytes in (BLOCK_BYTES, 32 << 10) for way in ("up", "down")]


def graph_of_a_step() -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
    """The graph, and what it reads: to be kept as long."""
    weights = [
        torch.randn(WIDTH, INNER, device="cuda", dtype=torch.bfloat16) for _ in range(LAYERS)
    ]
    hidden = torch.randn(BATCH, WIDTH, device="cuda", dtype=torch.bfloat16)

    def step() -> None:
        now = hidden
        for layer in weights:
            now = torch.relu(now @ layer)[:, :WIDTH].contiguous() * 0.01

    # Graphs are captured after a run on a stream of their own.
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph, [hidden, *weights]


def steps(graph: torch.cuda.CUDAGraph, seconds: float) -> list[float]:
    """Milliseconds of each step that ended within the time."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        took.append((time.perf_counter() - began) * 1e3)
    return took


class Copies:
    """Blocks that go between this engine's pool and the daemon's first tier, as fast as they go, on a
    thread of their own until they are ended."""

    def __init__(self, client: Client, namespace: Namespace, way: str) -> None:
        planes, page_bytes = namespace.planes, namespace.page_bytes
        shape = (planes, BLOCKS, page_bytes)
        tensors = [
            torch.zeros(shape, dtype=torch.uint8, device="cuda") for _ in range(namespace.layers)
        ]
        layout = PageLayout(BLOCKS, 0, 0, BLOCKS * page_bytes, page_bytes)
        self.client, self.way = client, way
        self.pool = CudaPool(namespace, layout, tensors)
        self.handle = client.register_pool(self.pool)
        self.stream = torch.cuda.Stream()
        self.fresh = itertools.count(os.getpid() << 64)
        self.known = self.hashes()
        self.store(self.known).result()
        self.ended = threading.Event()
        self.gbps = 0.0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def hashes(self) -> list[bytes]:
        return [number.to_bytes(32, "big") for number in itertools.islice(self.fresh, BLOCKS)]

    def store(self, hashes: list[bytes]):
        self.pool.record(self.stream.cuda_stream)
        return self.client.store(hashes, self.handle, range(BLOCKS)).op

    def load(self):
        self.pool.record(self.stream.cuda_stream)
        return self.client.load(self.known, self.handle, range(BLOCKS))

    def run(self) -> None:
        under_way, blocks, began = deque(), 0, time.monotonic()
        while not self.ended.is_set():
            under_way.append(self.load() if self.way == "up" else self.store(self.hashes()))
            if len(under_way) == DEPTH:
                blocks += BLOCKS - len(under_way.popleft().result().failed)
        self.gbps = blocks * BLOCK_BYTES / (time.monotonic() - began) / 1e9
        for call in under_way:
            call.result()

    def end(self) -> float:
        """How fast that went, in GB/s."""
        self.ended.set()
        self.thread.join()
        return self.gbps


def beside(
    socket: str, graph: torch.cuda.CUDAGraph, way: str, page_bytes: int, seconds: float
) -> tuple[list[float], float]:
    """The steps' times while blocks are copied, and how fast those are in GB/s."""
    pages = BLOCK_BYTES // page_bytes
    layers, planes = (pages // 2, 2) if pages > 1 else (1, 1)
    namespace = Namespace(
        model=f"decode-{page_bytes}", layers=layers, planes=planes, page_bytes=page_bytes,
        block_tokens=16,
    )  # fmt: skip
    with Client(socket, client_id=f"decode-{way}-{page_bytes}", namespace=namespace) as client:
        copies = Copies(client, namespace, way)
        try:
            took = steps(graph, seconds)
        finally:
            gbps = copies.end()
    return took, gbps


def main(socket: str, seconds: float) -> None:
    graph, kept = graph_of_a_step()
    steps(graph, 0.5)
    alone = steps(graph, seconds)
    print(f"{'copies beside':24} {'GB/s':>6} {'step p50 ms':>12} {'p99 ms':>8}")

    def row(name: str, gbps: float, took: list[float]) -> None:
        p50, p99 = statistics.median(took), sorted(took)[int(len(took) * 0.99)]
        longer = p50 / statistics.median(alone)
        print(f"{name:24} {gbps:6.1f} {p50:12.3f} {p99:8.3f}  {longer:.2f}x", flush=True)

    row("none", 0.0, alone)
    for way, page_bytes in BESIDE:
        took, gbps = beside(socket, graph, way, page_bytes, seconds)
        row(f"{way}, pages of {page_bytes >> 10} KiB", gbps, took)
    del kept


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
