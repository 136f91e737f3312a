#!/usr/bin/env python3
"""A toy engine on numpy: stores the KV of a prefix, finds it again, loads it back, compares.

    pip install ./python
    terrace serve &                  # or wherever a daemon runs already, and --socket then
    python examples/numpy_engine.py

Its "model" makes a page of KV from the tokens of a block, so that what comes back can be checked.
Run it again while the daemon lives (or has an NVMe tier), and the first request finds its prefix.
"""

import argparse
from itertools import groupby

import numpy as np

from terrace_kv import Client, HostPool, Kind, Namespace, Stop, default_socket, hashing, hints

LAYERS, HEADS, HEAD_SIZE, BLOCK_TOKENS = 4, 2, 32, 16
PAGE_SHAPE = (BLOCK_TOKENS, HEADS, HEAD_SIZE)
SLOTS = 64

NAMESPACE = Namespace(
    model="toy",
    dtype="float16",
    layers=LAYERS,
    planes=2,
    page_bytes=BLOCK_TOKENS * HEADS * HEAD_SIZE * 2,
    block_tokens=BLOCK_TOKENS,
)


def prefill(tokens: list[int]) -> np.ndarray:
    """What a model would have computed: the KV of one block, `[layer, plane, *PAGE_SHAPE]`."""
    random = np.random.default_rng(tokens)
    return random.standard_normal((LAYERS, 2, *PAGE_SHAPE)).astype(np.float16)


def serve(client: Client, handle, cache: np.ndarray, request: int, tokens: list[int]) -> None:
    """One request: loads what is stored, computes the rest, and stores that."""
    hashes = hashing.block_hashes(tokens, BLOCK_TOKENS)
    slots = range(len(hashes))
    found = client.lookup(hashes, request=request, session="agent-1")
    here = found.matched_blocks
    if here:
        done = client.load(hashes[:here], handle, slots[:here], request=request).result()
        # Blocks that could not be loaded are computed, and so is all that follows them.
        here = min((here, *done.failed))
    where = [f"{len(list(run))} from {tier.name.lower()}" for tier, run in groupby(found.tiers())]
    print(f"request {request}: {len(hashes)} blocks, {', '.join(where) or 'none stored yet'}")

    for place in slots[here:]:
        cache[place] = prefill(tokens[place * BLOCK_TOKENS : (place + 1) * BLOCK_TOKENS])
    for place in slots:
        expected = prefill(tokens[place * BLOCK_TOKENS : (place + 1) * BLOCK_TOKENS])
        assert np.array_equal(cache[place], expected), f"block {place} came back wrong"
    print(f"  {here} loaded, {len(hashes) - here} computed, every byte as expected")

    if here < len(hashes):
        parent = hashes[here - 1] if here else None
        system = hints.Directive(hints.Wish(kind=Kind.SYSTEM, priority=70), hints.TokenRange(0, 64))
        stored = client.store(
            hashes[here:], handle, slots[here:], parent=parent, request=request,
            session="agent-1", directives=[system],
        )  # fmt: skip
        stored.op.result()
        print(f"  {stored.taken_blocks} stored, {stored.dropped_blocks} found no room")
    used = client.end_request(request, stop=Stop.TOOL_USE)
    read = {tier.name.lower(): tokens for tier, tokens in used.read.items() if tokens}
    print(f"  usage in tokens: read {read or 'nothing'}, uncached {used.uncached_tokens}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", help="the daemon's socket; its usual one if not given")
    socket = parser.parse_args().socket or default_socket()
    with (
        Client(socket, client_id="numpy-engine", namespace=NAMESPACE) as client,
        HostPool.create(NAMESPACE, SLOTS) as pool,
    ):
        handle, cache = client.register_pool(pool), pool.view(np.float16, PAGE_SHAPE)
        prompt = [(place * 7) % 990 + 3 for place in range(20 * BLOCK_TOKENS)]
        serve(client, handle, cache, 1, prompt)
        target = hints.SessionTokens("agent-1", hints.TokenRange(0, 64))
        for outcome in client.hint(hints.ToolStart("agent-1", 2000), hints.Pin(target)):
            print(f"hint {outcome.action_id}: {outcome.status.name.lower()}, {outcome.blocks}")
        cache[:] = 0  # The engine's own copy is gone; the tool came back with more tokens.
        serve(client, handle, cache, 2, prompt + list(range(5 * BLOCK_TOKENS)))
        print(f"{client.status().blocks} blocks are in the daemon")


if __name__ == "__main__":
    main()
