"""vLLM's KV caches and its block pool, as far as tests need them; and a teller to nobody."""

from types import SimpleNamespace as Bag
from typing import Any
from unittest import TestCase

import numpy as np

from terrace_kv.vllm import layout
from terrace_kv.vllm.telling import Teller

LAYERS, BLOCKS, HEADS, TOKENS, CONTENT = 3, 5, 2, 4, 512
SIZES = {"L": LAYERS, "B": BLOCKS, "H": HEADS, "N": TOKENS, "C": CONTENT}


def cache(order: str, kernel_blocks: int = 1) -> tuple[np.ndarray, dict[str, layout.Tensor]]:
    """vLLM's cache in one of its orders, as bytes `[L, B, H, N, C]`, and what it registers."""
    base = np.zeros([SIZES[axis] for axis in order], np.uint8)
    logical = base.transpose([order.index(axis) for axis in "LBHNC"])
    registered = {}
    for layer in range(LAYERS):
        one = logical[layer]
        shape, strides = list(one.shape), list(one.strides)
        if kernel_blocks > 1:
            shape[0] *= kernel_blocks
            shape[2] //= kernel_blocks
            strides[0] //= kernel_blocks
        registered[f"layers.{layer}"] = layout.Tensor(
            one.ctypes.data, tuple(shape), tuple(strides), 1
        )
    return logical, registered


def memory_of(logical: np.ndarray) -> layout.Memory:
    whole = logical
    while whole.base is not None:
        whole = whole.base
    return layout.Memory(whole.ctypes.data, whole.nbytes)


def teller_of(case: TestCase, may_tell=lambda: True, **named) -> tuple[Teller, list[Any]]:
    """One whose sayings give what is noted as told."""
    told: list[Any] = []

    def tell(one) -> bool:
        told.append(one.tell(None))
        return False

    made = Teller(tell, lambda: 0.0 if may_tell() else 0.02, **named)
    case.addCleanup(made.close)
    return made, told


class Pool:
    """vLLM's block pool, as far as holds use it."""

    def __init__(self, blocks: int) -> None:
        self.blocks = [Bag(number=number, ref_cnt=0) for number in range(blocks)]
        self.freed: list[int] = []

    def touch(self, blocks) -> None:
        for one in blocks:
            one.ref_cnt += 1

    def free_blocks(self, blocks) -> None:
        for one in blocks:
            one.ref_cnt -= 1
            self.freed.append(one.number)

    def held(self) -> set[int]:
        return {one.number for one in self.blocks if one.ref_cnt}
