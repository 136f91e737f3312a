"""Of which blocks a request's directives are said, and how often."""

import unittest
from dataclasses import replace

from rig import BLOCK_TOKENS, PATIENCE_S, DaemonCase, chain, until
from terrace_kv import hints
from terrace_kv.vllm.directives import beyond, retains
from terrace_kv.vllm.hints import RequestHints
from vllm_engine import Engine, EngineCase

HIGH = hints.Wish(priority=77)
FORGET = hints.Wish(delete_after_ms=3_600_000)


def directive(start: int, end: int | None, wish: hints.Wish = HIGH) -> hints.Directive:
    return hints.Directive(wish, hints.TokenRange(start, end))


class RangesTest(unittest.TestCase):
    def test_what_lies_before_is_left_out(self):
        given = [directive(0, 32), directive(32, 64, FORGET), directive(64, None)]
        self.assertEqual(beyond(given, 0), given)
        self.assertEqual(beyond(given, 40), [directive(40, 64, FORGET), directive(64, None)])
        self.assertEqual(beyond(given, 64), [directive(64, None)])
        self.assertEqual(beyond([hints.Directive(HIGH)], 16), [directive(16, None)])

    def test_a_range_covers_every_block_that_holds_one_of_its_tokens(self):
        def covered(start: int, end: int | None) -> list[int]:
            made = retains([directive(start, end)], None, [bytes([n]) for n in range(4)], 16)
            return [one[0] for action in made for one in action.target.hashes]

        self.assertEqual(covered(0, None), [0, 1, 2, 3])
        self.assertEqual(covered(15, 17), [0, 1])
        self.assertEqual(covered(16, 32), [1])
        self.assertEqual(covered(64, None), [])


class DirectivesTest(EngineCase, DaemonCase):
    def compute(self, engine: Engine, request, blocks: int) -> None:
        """A step at whose end so many of the request's blocks are computed."""
        tokens = blocks * BLOCK_TOKENS
        engine.side.computed(request.request_id, tokens, lambda _: range(blocks))
        engine.worker.begin(engine.side.take_step())
        engine.settle()

    def stored(self, engine: Engine, hashes) -> None:
        request = engine.request(hashes)
        engine.matched(request)
        self.compute(engine, request, len(hashes))
        engine.finish(request)

    def priorities(self, engine: Engine, hashes) -> set[int]:
        return {engine.client.inspect(one).record.priority for one in hashes}

    def test_a_promise_to_forget_is_not_put_off_by_later_blocks(self):
        engine, hashes = self.engine(), chain(6, seed=1)
        request = engine.request(hashes, RequestHints(directives=(hints.Directive(FORGET),)))
        engine.matched(request)
        self.compute(engine, request, 4)
        promise = engine.client.inspect(hashes[0]).record.delete_after_unix_us
        self.compute(engine, request, 5)
        self.compute(engine, request, 6)
        due = [engine.client.inspect(one).record.delete_after_unix_us for one in hashes]
        self.assertEqual(set(due[:4]), {promise})
        self.assertLess(promise, due[4])
        self.assertLess(due[4], due[5])

    def test_the_first_store_speaks_of_blocks_that_were_found(self):
        engine, hashes = self.engine(), chain(6, seed=2)
        self.stored(engine, hashes[:4])
        request = engine.request(hashes, RequestHints(directives=(directive(0, 80),)))
        engine.matched(request)
        self.compute(engine, request, 6)
        self.assertEqual(self.priorities(engine, hashes[:5]), {77})
        self.assertEqual(self.priorities(engine, hashes[5:]), {35})

    def test_a_request_that_stores_nothing_says_its_directives_too(self):
        engine = self.engine()
        for session in (None, "cached"):
            with self.subTest(session):
                hashes = chain(4, seed=10 + bool(session))
                self.stored(engine, hashes)
                said = RequestHints(session=session, directives=(directive(0, 33),))
                request = engine.request(hashes, said)
                engine.matched(request)
                engine.finish(request, range(4))
                until(
                    lambda hashes=hashes: self.priorities(engine, hashes[:3]) == {77},
                    "its directives count",
                )
                self.assertEqual(self.priorities(engine, hashes[3:]), {35})

    def test_directives_at_the_end_are_of_the_request_s_own_chain(self):
        """Also where another request of the session came after it."""
        engine, own, other = self.engine(), chain(4, seed=20), chain(4, seed=21)
        for hashes in (own, other):
            self.stored(engine, hashes)
        said = RequestHints(session="shared", directives=(directive(0, None),))
        request = engine.request(own, said)
        engine.matched(request)
        engine.matched(engine.request(other, RequestHints(session="shared")))
        engine.finish(request, range(4))
        until(lambda: self.priorities(engine, own) == {77}, "they count")
        self.assertEqual(self.priorities(engine, other), {35})

    def test_directives_of_a_request_that_the_daemon_never_heard_of(self):
        engine, own, other = self.engine(), chain(4, seed=22), chain(4, seed=23)
        self.stored(engine, own)
        earlier = engine.request(other, RequestHints(session="unheard"))
        engine.matched(earlier)
        self.compute(engine, earlier, 4)
        engine.asker._caller.breaker.failed()
        said = RequestHints(session="unheard", directives=(directive(0, None),))
        request = engine.request(own, said)
        self.assertEqual(engine.matched(request), 0)
        engine.side.computed(request.request_id, 4 * BLOCK_TOKENS, lambda _: range(4))
        until(engine.asker.available, "the pause is over")
        engine.worker._pause()
        engine.finish(request, range(4))
        engine.settle()
        until(lambda: self.priorities(engine, own) == {77}, "they count")
        self.assertEqual(self.priorities(engine, other), {35})

    def test_directives_of_a_store_that_was_refused_are_said_at_the_end(self):
        engine, hashes = self.engine(), chain(6, seed=3)
        self.stored(engine, hashes[:4])
        request = engine.request(hashes, RequestHints(directives=(directive(0, None),)))
        engine.matched(request)
        engine.worker._pause()
        self.compute(engine, request, 6)
        engine.finish(request, range(6))
        engine.settle()
        until(lambda: self.priorities(engine, hashes[:4]) == {77}, "they count")

    def test_a_promise_is_not_put_off_where_a_full_daemon_keeps_nothing(self):
        engine, hashes = self.engine(), chain(8, seed=4)
        self.stored(engine, hashes[:4])
        request = engine.request(hashes, RequestHints(directives=(hints.Directive(FORGET),)))
        engine.matched(request)
        store = engine.worker._client.store

        def full(*given, **named):
            stored = store(*given, **named)
            stored.op.result(PATIENCE_S)
            return replace(stored, taken_blocks=0, dropped_blocks=stored.taken_blocks)

        engine.worker._client.store = full
        self.compute(engine, request, 5)
        promise = engine.client.inspect(hashes[0]).record.delete_after_unix_us
        self.compute(engine, request, 6)
        self.assertEqual(engine.client.inspect(hashes[0]).record.delete_after_unix_us, promise)


if __name__ == "__main__":
    unittest.main()
