"""vLLM's caches are reset, as for new weights: KV of the old ones is not found any more, nor passed
off as that of the new ones."""

import os
import unittest

from rig import BLOCK_TOKENS, DaemonCase, chain
from terrace_kv import hints
from terrace_kv.vllm.events import Announced
from terrace_kv.vllm.hints import RequestHints
from terrace_kv.vllm.names import Names
from vllm_engine import Engine, EngineCase

OLD, NEW = 100, 200
ALL = 4 * BLOCK_TOKENS


class NamesTest(unittest.TestCase):
    def test_names_are_hashes_until_they_are_renewed(self):
        for width in (16, 32):
            names, hashes = Names(), [os.urandom(width) for _ in range(5)]
            self.assertEqual(names.of(hashes), b"".join(hashes))
            seen = {names.of([one]) for one in hashes}
            for _ in range(3):
                names.renew()
                self.assertEqual(names.of(hashes), b"".join(names.of([one]) for one in hashes))
                seen.update(names.of([one]) for one in hashes)
                self.assertEqual(names.of([]), b"")
            self.assertEqual({len(one) for one in seen}, {width})
            self.assertEqual(len(seen), 4 * len(hashes))


class ResetTest(EngineCase, DaemonCase):
    def computed(self, engine: Engine, hashes, seed: int, said=None) -> None:
        request = engine.request(hashes, said)
        self.assertEqual(engine.matched(request), 0)
        engine.compute(request, range(len(hashes)), seed)
        engine.settle()
        engine.finish(request)

    def check_loads(self, engine: Engine, hashes, seed: int) -> None:
        request = engine.request(hashes)
        self.assertEqual(engine.matched(request), len(hashes) * BLOCK_TOKENS)
        slots = range(40, 40 + len(hashes))
        self.assertEqual(engine.load(request, len(hashes) * BLOCK_TOKENS, slots), set())
        engine.check(slots, seed)
        engine.finish(request)

    def test_what_old_weights_computed_is_left_to_others(self):
        engine, other, hashes = self.engine(), self.engine(), chain(4, seed=1)
        self.computed(engine, hashes, OLD)
        for turn in range(2):
            engine.side.reset()
            self.computed(engine, hashes, NEW + turn)
            self.check_loads(engine, hashes, NEW + turn)
            self.check_loads(other, hashes, OLD)

    def test_an_answer_from_before_is_not_gone_by(self):
        engine, hashes = self.engine(), chain(4, seed=2)
        self.computed(engine, hashes, OLD)
        request = engine.request(hashes)
        self.assertEqual(engine.matched(request), ALL)
        waiting = engine.request(hashes)
        engine.side.reset()
        self.assertEqual((engine.matched(request), engine.matched(waiting)), (0, 0))

    def test_blocks_from_before_are_not_offered_as_new(self):
        engine, hashes = self.engine(store_percent=1), chain(8, seed=3)
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(8), OLD)
        self.assertEqual(len(engine.blocks.held()), 1)
        engine.side.reset()
        engine.settle()
        engine.compute(request, range(8), OLD)
        self.assertEqual(engine.blocks.held(), set())
        engine.finish(request, range(8))
        self.assertEqual(engine.blocks.held(), set())

    def test_a_request_that_is_kept_is_computed_and_stored_anew(self):
        engine, hashes = self.engine(), chain(4, seed=4)
        wish = hints.Directive(hints.Wish(priority=77))
        request = engine.request(hashes, RequestHints(directives=(wish,)))
        engine.matched(request)
        engine.compute(request, range(4), OLD)
        engine.settle()
        engine.side.reset()
        self.computed(engine, hashes[:2], NEW)
        self.assertEqual(engine.matched(request), ALL // 2)
        self.assertEqual(engine.load(request, ALL // 2, range(8, 10)), set())
        engine.compute(request, range(8, 12), NEW)
        self.assertEqual(engine.blocks.held(), {10, 11})
        engine.settle()
        first = engine.side._names.of(hashes[:1])
        self.assertEqual(engine.client.inspect(first).record.priority, 77)
        self.check_loads(engine, hashes, NEW)

    def test_also_where_the_engine_only_stores(self):
        engine, hashes = self.engine(loads=False), chain(4, seed=6)
        request = engine.request(hashes)
        self.assertEqual(engine.matched(request), 0)
        engine.compute(request, range(4), OLD)
        engine.settle()
        engine.side.reset()
        self.assertEqual(engine.matched(request), 0)
        engine.compute(request, range(8, 12), NEW)
        self.assertEqual(engine.blocks.held(), set(range(8, 12)))
        engine.settle()

    def test_routers_hear_nothing_of_stores_from_before(self):
        engine, hashes, told = self.engine(), chain(4, seed=5), []
        engine.side.on_stored = lambda offer, kept: told.append(kept)
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(4), OLD)
        engine.side.reset()
        engine.settle()
        self.assertEqual(told, [])
        announced = Announced()
        announced.stored([b"a", b"b"])
        self.assertEqual((announced.forget(), announced.forget()), ([b"a", b"b"], []))


if __name__ == "__main__":
    unittest.main()
