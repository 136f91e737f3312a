"""How vLLM's KV cache becomes pages: its orders, and what pages cannot say."""

import itertools
import unittest

import numpy as np

from terrace_kv import HostPool, Namespace
from terrace_kv.vllm import layout
from vllm_rig import BLOCKS, CONTENT, HEADS, LAYERS, TOKENS, cache, memory_of


class LayoutTest(unittest.TestCase):
    def check(self, order: str, planes: int, kernel_blocks: int = 1) -> layout.Geometry:
        """Every page lies where the daemon would look for it."""
        logical, registered = cache(order, kernel_blocks)
        geometry = layout.read(registered, BLOCKS, memory_of(logical))
        self.assertEqual((geometry.layers, geometry.planes), (LAYERS, planes), order)
        self.assertEqual(geometry.page_bytes * planes, HEADS * TOKENS * CONTENT)
        space = Namespace("m", LAYERS, geometry.page_bytes, TOKENS, planes)
        with HostPool.create(space, BLOCKS, geometry.layout) as pool:
            # The same bytes at the same places: filled by vLLM's view, read by the daemon's.
            whole = np.frombuffer(pool.memory, np.uint8)
            for layer, block in itertools.product(range(LAYERS), range(BLOCKS)):
                logical[layer, block] = layer * BLOCKS + block + 1
            memory = memory_of(logical)
            base = logical
            while base.base is not None:
                base = base.base
            whole[: memory.length] = base.reshape(-1)
            view = pool.view()
            for layer, block in itertools.product(range(LAYERS), range(BLOCKS)):
                page = view[block, layer]
                self.assertEqual({*page.reshape(-1)}, {layer * BLOCKS + block + 1}, order)
        return geometry

    def test_every_order_of_vllm_that_pages_can_say(self):
        for order, planes in (
            ("LBHNC", 1), ("LBNHC", 1), ("BLHNC", 1), ("BLNHC", 1),
            ("LHBNC", HEADS), ("BHLNC", HEADS),
        ):  # fmt: skip
            with self.subTest(order):
                self.check(order, planes)

    def test_blocks_that_the_kernel_splits(self):
        self.assertIn("K2", self.check("LBNHC", 1, kernel_blocks=2).order)

    def test_orders_inside_a_page_are_told_apart(self):
        orders = {self.check(order, 1).order for order in ("LBHNC", "LBNHC")}
        self.assertEqual(orders, {"H2.N4.C512", "N4.H2.C512"})

    def test_layers_that_share_a_cache_are_one(self):
        logical, registered = cache("LBHNC")
        registered["layers.3"] = registered["layers.0"]
        geometry = layout.read(registered, BLOCKS, memory_of(logical))
        self.assertEqual(geometry.layers, LAYERS)

    def test_what_pages_cannot_say_is_refused(self):
        logical, registered = cache("LBHNC")
        memory = memory_of(logical)
        one = registered["layers.1"]
        apart = layout.Tensor(one.address + 64, one.shape, one.strides, 1)
        other = layout.Tensor(one.address, (BLOCKS, 1, TOKENS, CONTENT), one.strides, 1)
        scattered = layout.Tensor(one.address, one.shape, (one.strides[0], 4096, 1024, 2), 1)
        for name, tensors, blocks, where, says in (
            ("uneven", {**registered, "layers.1": apart}, BLOCKS, memory, "evenly"),
            ("another shape", {**registered, "layers.1": other}, BLOCKS, memory, "one layout"),
            ("scattered", {"a": scattered}, BLOCKS, memory, "VLLM_KV_CACHE_LAYOUT"),
            ("other blocks", registered, BLOCKS + 1, memory, "blocks"),
            ("none", {}, BLOCKS, memory, "no KV cache"),
            ("outside", registered, BLOCKS, layout.Memory(memory.address, 100), "shared"),
        ):
            with self.subTest(name), self.assertRaisesRegex(layout.Unsupported, says):
                layout.read(tensors, blocks, where)


if __name__ == "__main__":
    unittest.main()
