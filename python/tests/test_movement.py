"""What is moved ahead of need, and what a lookup says is worth loading."""

import time
import unittest
from typing import ClassVar

from rig import BLOCK_TOKENS, PATIENCE_S, DaemonCase, chain, until
from terrace_kv import (
    Client,
    Invalid,
    LiftReason,
    LiftState,
    Link,
    NotFound,
    OpKind,
    OutcomeStatus,
    Tier,
    hints,
)


class PlanTest(DaemonCase):
    def test_without_a_rate_everything_is_worth_loading(self):
        engine = self.engine()
        hashes = chain(8, seed=1)
        engine.store(hashes, seed=1)
        found = engine.client.lookup([*hashes, *chain(2, seed=2)])
        self.assertEqual((found.plan.load_blocks, found.plan.mixed_blocks), (8, 8))
        self.assertIsNone(found.plan.recompute_us)
        self.assertEqual(found.runs[-1].ready_us, found.plan.load_us)

    def test_a_declared_rate_is_what_recompute_is_reckoned_by(self):
        engine = self.engine()
        hashes = chain(8, seed=3)
        engine.store(hashes, seed=3)
        with Client(
            self.daemon.socket, client_id="rated", namespace=engine.space,
            prefill_tokens_per_s=1000,
        ) as client:  # fmt: skip
            plan = client.lookup(hashes).plan
            tokens = 8 * BLOCK_TOKENS
            self.assertEqual(plan.recompute_us, tokens * 1000)
            self.assertLessEqual(plan.mixed_us, plan.recompute_us)

    def test_a_report_corrects_the_rate(self):
        engine = self.engine()
        hashes = chain(8, seed=4)
        engine.store(hashes, seed=4)
        engine.client.lookup(hashes, request=1)
        engine.client.end_request(1, prefill_tokens=10_000, prefill_s=2.0)
        plan = engine.client.lookup(hashes).plan
        self.assertEqual(plan.recompute_us, 8 * BLOCK_TOKENS * 200)

    def test_rates_and_reports_that_make_no_sense(self):
        engine = self.engine()
        for rate in (0, -1, 1 << 40):
            with self.subTest(rate), self.assertRaises(Invalid):
                Client(
                    self.daemon.socket, client_id="x", namespace=engine.space,
                    prefill_tokens_per_s=rate,
                )  # fmt: skip
        for tokens, seconds in ((10, 0.0), (0, 1.0), (-1, 1.0), (10, -1.0)):
            with self.subTest((tokens, seconds)), self.assertRaises(Invalid):
                engine.client.end_request(1, prefill_tokens=tokens, prefill_s=seconds)


class LiftTest(DaemonCase):
    settings: ClassVar = {"hbm-capacity": "64MiB"}

    def test_a_prefetch_is_watched_to_its_end(self):
        engine = self.engine()
        client, hashes = engine.client, chain(6, seed=1)
        engine.store(hashes, seed=1)
        target = hints.Blocks(hashes)
        (asked,) = client.hint(hints.Prefetch(target, to=Tier.DRAM, deadline_ms=5000))
        self.assertIn(asked.status, (OutcomeStatus.ACCEPTED, OutcomeStatus.DEFERRED))
        done = client.watch(asked.operation_id).result(PATIENCE_S)
        self.assertEqual((done.kind, done.request_id, done.failed), (OpKind.PREFETCH, 0, ()))
        lift = client.lift(asked.operation_id)
        self.assertEqual((lift.state, lift.landed, lift.blocks), (LiftState.HELD, 6, 6))
        self.assertEqual((lift.reason, lift.to), (LiftReason.PREFETCH, Tier.DRAM))
        self.assertGreater(lift.deadline_unix_us, time.time_ns() // 1000)
        (outcome,) = client.hint(hints.CancelPrefetch(asked.operation_id))
        self.assertEqual(outcome.status, OutcomeStatus.ACCEPTED)
        self.assertEqual(client.lift(asked.operation_id).state, LiftState.CANCELLED)

    def test_two_who_watch_hear_the_same(self):
        engine = self.engine()
        completions = engine.client._connection.session().completions
        first, second = engine.client.watch(1 << 40), engine.client.watch(1 << 40)
        self.assertFalse(first.done() or second.done())
        completions.close(NotFound("over"))
        for one in (first, second):
            with self.assertRaises(NotFound):
                one.result(0)

    def test_lifts_of_others_are_not_found(self):
        engine, other = self.engine("mine"), self.engine("theirs")
        hashes = chain(2, seed=2)
        engine.store(hashes, seed=2)
        (asked,) = engine.client.hint(hints.Prefetch(hints.Blocks(hashes), to=Tier.DRAM))
        for number in (asked.operation_id, 1 << 40):
            with self.assertRaises(NotFound):
                other.client.lift(number)

    def test_a_request_that_waits_is_lifted(self):
        engine = self.engine()
        hashes = chain(4, seed=3)
        engine.store(hashes, seed=3)
        begun = engine.client.status().lifts.begun
        engine.client.lookup(hashes, request=9, queued=True)
        until(lambda: engine.client.status().lifts.begun > begun, "it is lifted")
        self.assertIsNone(engine.client.status().nvme_writes.budget_left_bytes)
        links = engine.client.status().links
        self.assertEqual(set(links), set(Link) - {Link.UNKNOWN})


if __name__ == "__main__":
    unittest.main()
