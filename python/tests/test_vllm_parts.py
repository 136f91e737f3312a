"""The connector's decisions, without vLLM: layouts, hints, settings, refusals, holds."""

import itertools
import unittest
from types import SimpleNamespace as Bag

import numpy as np

from terrace_kv import HostPool, Kind, Namespace, Run, Tier, hints
from terrace_kv.vllm import hints as said
from terrace_kv.vllm import layout, support
from terrace_kv.vllm.events import Announced
from terrace_kv.vllm.holds import Holds
from terrace_kv.vllm.jobs import Load, Over, Report, Store
from terrace_kv.vllm.ledger import GRACE_S, Daemon, Ledger
from terrace_kv.vllm.lookups import Breaker, Found, Question
from terrace_kv.vllm.settings import Settings
from terrace_kv.vllm.stats import Counts

LAYERS, BLOCKS, HEADS, TOKENS, CONTENT = 3, 5, 2, 4, 512
SIZES = {"L": LAYERS, "B": BLOCKS, "H": HEADS, "N": TOKENS, "C": CONTENT}
MINUTES_5, HOUR = 300_000, 3_600_000


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


def lowered(params, session=None, envelope=None) -> said.RequestHints:
    return said.read(params, session, envelope, 100)


class HintsTest(unittest.TestCase):
    def check(self, params, *expected) -> said.RequestHints:
        """Directives as (start, end, fields of the wish)."""
        made = lowered(params)
        spans = [(one.tokens.start, one.tokens.end, one.wish.payload()) for one in made.directives]
        self.assertEqual(spans, list(expected), params)
        return made

    def test_shields_and_priorities(self):
        five = {"ttl_ms": MINUTES_5, "refresh_on_hit": True}
        self.check({})
        self.check(None)
        self.check({"cache_control": {"type": "ephemeral"}}, (0, 100, five))
        self.check({"nvext": {"cache_control": {"ttl": "1h"}}}, (0, 100, {**five, "ttl_ms": HOUR}))
        self.check({"cache_control": {"ttl": 7}}, (0, 100, five))
        self.check({"agent_hints": {"priority": 20}}, (0, None, {"priority": 55}))
        self.check({"agent_hints": {"priority": 900}}, (0, None, {"priority": 100}))
        self.check(
            {"agent_hints": {"priority": -5}, "cache_control": {}},
            (0, 100, {"priority": 30, **five}), (100, None, {"priority": 30}),
        )  # fmt: skip

    def test_breakpoints_of_which_the_longest_counts(self):
        marks = [{"end": 40, "ttl": "1h"}, {"end": 80}]
        five = {"ttl_ms": MINUTES_5, "refresh_on_hit": True}
        self.check({"cache_control": marks}, (0, 40, {**five, "ttl_ms": HOUR}), (40, 80, five))

    def test_own_directives(self):
        given = [
            {"start": 0, "end": 32, "kind": "system", "priority": 80},
            {"start": 32, "kind": "reasoning"},
        ]
        made = self.check(
            {"terrace": {"directives": given, "session": "a"}},
            (0, 32, {"priority": 80, "kind": "system"}), (32, None, {"kind": "reasoning"}),
        )  # fmt: skip
        self.assertEqual(made.directives[0].wish.kind, Kind.SYSTEM)
        self.assertEqual(made.session, "a")

    def test_ranges_never_overlap_and_neighbours_join(self):
        claims = [
            said._Claim(0, None, hints.Wish(priority=50)),
            said._Claim(10, 30, hints.Wish(priority=70)),
            said._Claim(20, 40, hints.Wish(priority=70)),
        ]
        made = [(one.tokens.start, one.tokens.end, one.wish.priority) for one in said.spans(claims)]
        self.assertEqual(made, [(0, 10, 50), (10, 40, 70), (40, None, 50)])

    def test_sessions(self):
        made = lowered({"agent_context": {"session_id": "s", "parent_session_id": "p"}})
        self.assertEqual((made.session, made.before), ("s", [hints.SessionStart("s", "p")]))
        made = lowered({"agent_context": {"session_id": "s", "session_final": True}})
        self.assertEqual(made.after, [hints.SessionEnd("s")])
        self.assertEqual(lowered({}, session="native").session, "native")
        self.assertEqual(lowered({"terrace": {"session": "own"}}, session="native").session, "own")

    def test_speculative_prefill(self):
        wanted = {"agent_hints": {"speculative_prefill": True}}
        (lift,) = lowered({**wanted, "agent_context": {"session_id": "s"}}).after
        self.assertEqual(lift, hints.SpeculativePrefill(hints.SessionTokens("s")))
        for without in ({}, {"agent_context": {"session_id": "s", "session_final": True}}):
            made = lowered({**wanted, **without})
            self.assertTrue(made.notes and lift not in made.after, without)

    def test_envelopes_pass_as_they_are(self):
        envelope = hints.envelope([hints.SessionStart("s")], "m")
        self.assertEqual(lowered({"kv_hints": envelope}).envelope, envelope)
        self.assertEqual(lowered({}, envelope=envelope).envelope, envelope)

    def test_what_makes_no_sense_is_noted_and_left_out(self):
        for params in (
            {"cache_control": {"type": "for ever"}},
            {"cache_control": {"ttl": "soon"}},
            {"cache_control": [{"end": -1}]},
            {"cache_control": "5m"},
            {"agent_hints": {"priority": "high"}},
            {"terrace": {"directives": "all"}},
            {"terrace": {"directives": [{"start": 5, "end": 5}]}},
            {"terrace": {"directives": [{"colour": 1}]}},
            {"terrace": {"directives": [{"kind": "poem"}]}},
            {"terrace": {"session": "s" * 129}},
            {"terrace": {"session": 7}},
        ):
            with self.subTest(params):
                made = self.check(params)
                self.assertTrue(made.notes)
        for params in ([], "text", 7, {"terrace": 3, "nvext": [], "agent_hints": None}):
            with self.subTest(params):
                self.check(params)


class SettingsTest(unittest.TestCase):
    def test_defaults_and_the_daemons_own_socket(self):
        read = Settings.read({}, {"XDG_RUNTIME_DIR": "/run/user/7"})
        self.assertEqual(read.socket, "/run/user/7/terrace.sock")
        self.assertEqual(Settings.read({}, {"TERRACE_SOCKET": "/s"}).socket, "/s")
        self.assertEqual(Settings.read({"socket": "/t"}, {"TERRACE_SOCKET": "/s"}).socket, "/t")

    def test_each_mistake_names_key_value_and_remedy(self):
        for given, says in (
            ({"sockets": "/x"}, "sockets is no setting: there are .*socket"),
            ({"socket": 3}, "socket is 3: it must be text"),
            ({"lookup_timeout_s": 0}, "lookup_timeout_s is 0"),
            ({"load_timeout_s": "fast"}, "load_timeout_s is 'fast': it must be seconds"),
            ({"ask_shared_ms": 10_001}, "0 to 10000"),
            ({"prefill_tokens_per_s": 0}, "leave it out"),
            ({"store_percent": 51}, "1 to 50"),
            ({"call_timeout_s": True}, "call_timeout_s is True"),
        ):
            with self.subTest(given), self.assertRaisesRegex(ValueError, says):
                Settings.read(given, {})


def spec(kind: str, tokens: int = 16) -> object:
    return Bag(kv_cache_spec=type(kind, (), {"block_size": tokens})())


def configs(**changed) -> tuple[Bag, Bag]:
    """vLLM's configuration, as far as it is read."""
    config = Bag(
        parallel_config=Bag(
            pipeline_parallel_size=changed.get("pipeline", 1), tensor_parallel_size=2
        ),
        cache_config=Bag(
            enable_prefix_caching=changed.get("caching", True),
            prefix_caching_hash_algo=changed.get("algorithm", "sha256"), cache_dtype="auto",
        ),
        kv_transfer_config=Bag(kv_load_failure_policy=changed.get("policy", "recompute")),
        model_config=Bag(
            model="m", revision=None, dtype="torch.bfloat16", quantization=None, seed=7,
            hf_config=Bag(to_dict=lambda: {"rope_theta": changed.get("rope", 1.0)}),
        ),
        load_config=Bag(load_format=changed.get("load", "auto")),
    )  # fmt: skip
    groups = changed.get("groups", [spec("FullAttentionSpec")])
    return config, Bag(kv_cache_groups=groups, hash_block_size=changed.get("hashed"))


class SupportTest(unittest.TestCase):
    def test_what_is_served(self):
        for changed in ({}, {"groups": [spec("MLAAttentionSpec")]}, {"hashed": 16}):
            support.check(*configs(**changed))

    def test_what_is_refused_says_what_to_change(self):
        hybrid = [spec("FullAttentionSpec"), spec("MambaSpec")]
        for changed, says in (
            ({"groups": hybrid}, r"2 KV cache groups \(FullAttentionSpec, MambaSpec\).*without"),
            ({"groups": [spec("SlidingWindowSpec")]}, "full attention and MLA only"),
            ({"pipeline": 2}, "pipeline_parallel_size to 1"),
            ({"caching": False}, "prefix caching is off"),
            ({"algorithm": "md5"}, "--prefix-caching-hash-algo"),
            ({"policy": "fail"}, "'recompute'"),
            ({"hashed": 8}, "--block-size"),
        ):
            with self.subTest(changed), self.assertRaisesRegex(layout.Unsupported, says):
                support.check(*configs(**changed))

    def space(self, settings=None, **changed) -> Namespace:
        logical, registered = cache("LBHNC")
        geometry = layout.read(registered, BLOCKS, memory_of(logical))
        return support.namespace_of(*configs(**changed), geometry, settings or Settings("/s"))

    def test_blocks_are_shared_only_where_they_are_the_same(self):
        first = self.space()
        self.assertEqual(first, self.space())
        self.assertEqual((first.shard_count, first.hash_bytes, first.block_tokens), (2, 32, 16))
        for other in (
            self.space(rope=2.0),
            self.space(algorithm="xxhash"),
            self.space(load="dummy"),
            self.space(Settings("/s", tenant_salt="t")),
            self.space(Settings("/s", weights="tuned")),
            self.space(Settings("/s", model="other")),
        ):
            self.assertNotEqual(first.digest(), other.digest())


def load(number: int, request: str = "r", slots=(1, 2)) -> Load:
    return Load(number, request, 1, b"", slots)


def store(number: int, slots=(5,)) -> Store:
    return Store(number, 1, b"", slots, None, None, ())


HERE, GONE, AWAY = Daemon(7, False), Daemon(None, True), Daemon(None, False)


class LedgerTest(unittest.TestCase):
    def ledger(self, *jobs, epoch=7) -> Ledger:
        ledger = Ledger()
        for job in jobs:
            ledger.add(job, overdue_at=10.0)
        for job in jobs:
            ledger.begun(job.number, epoch)
        return ledger

    def test_a_request_waits_for_all_its_loads(self):
        ledger = self.ledger(load(1), load(2, slots=(3, 4)))
        ledger.ended(1, ())
        self.assertEqual(ledger.take_finished(), set())
        ledger.ended(2, (1,))
        self.assertEqual((ledger.take_finished(), ledger.take_failed_slots()), ({"r"}, {4}))
        report = ledger.take_report()
        self.assertEqual((set(report.over), report.failed_requests), ({1, 2}, {"r"}))
        self.assertFalse(ledger.take_report())

    def test_one_that_was_never_begun_is_over_at_once(self):
        ledger = self.ledger(load(1), store(2))
        ledger.never_begun(1)
        ledger.never_begun(2)
        self.assertEqual(ledger.take_failed_slots(), {1, 2})
        self.assertEqual(set(ledger.take_report().over), {1, 2})
        self.assertEqual(len(ledger), 0)

    def test_a_load_without_an_end_is_given_up_and_its_slots_linger(self):
        ledger = self.ledger(load(1))
        self.assertEqual(ledger.overdue(9.9), [])
        self.assertEqual(ledger.overdue(10.0), [1])
        ledger.lost(1)
        ledger.lost(1)
        self.assertEqual((ledger.take_finished(), ledger.take_failed_slots()), ({"r"}, {1, 2}))
        report = ledger.take_report()
        self.assertEqual((report.lingering, report.over), ({1}, {}))
        self.assertEqual(ledger.overdue(11.0), [])

    def check_proof(self, states, over: bool) -> None:
        ledger = self.ledger(store(1))
        ledger.lost(1)
        for now, daemon in states:
            ledger.look(now, daemon)
        self.assertEqual(set(ledger.take_report().over), {1} if over else set(), states)

    def test_slots_come_free_only_with_proof_and_after_a_grace(self):
        later, long = Daemon(8, False), GRACE_S + 0.1
        self.check_proof([(0, later)], over=False)
        self.check_proof([(0, later), (GRACE_S / 2, later)], over=False)
        self.check_proof([(0, later), (long, later)], over=True)
        self.check_proof([(0, GONE), (long, GONE)], over=True)
        # The same session, or one that is merely away, proves nothing, however long.
        self.check_proof([(0, HERE), (1000, HERE)], over=False)
        self.check_proof([(0, AWAY), (1000, AWAY)], over=False)
        self.check_proof([(0, GONE), (0.5, AWAY), (long, GONE)], over=False)

    def test_an_end_that_is_heard_late_is_proof_too(self):
        ledger = self.ledger(load(1))
        ledger.lost(1)
        ledger.take_finished(), ledger.take_failed_slots()
        ledger.ended(1, ())
        self.assertEqual(set(ledger.take_report().over), {1})
        # The request went on meanwhile: it hears nothing twice.
        self.assertEqual(ledger.take_finished(), set())


class Pool:
    """vLLM's block pool, as far as holds use it."""

    def __init__(self, blocks: int) -> None:
        self.blocks = [Bag(number=number, refs=0) for number in range(blocks)]
        self.freed: list[int] = []

    def touch(self, blocks) -> None:
        for one in blocks:
            one.refs += 1

    def free_blocks(self, blocks) -> None:
        for one in blocks:
            one.refs -= 1
            self.freed.append(one.number)

    def held(self) -> set[int]:
        return {one.number for one in self.blocks if one.refs}


class HoldsTest(unittest.TestCase):
    def setUp(self):
        self.now = 0.0
        self.holds = Holds(2, lambda: self.now)
        self.pool = self.holds.pool = Pool(10)

    def test_a_store_is_held_until_every_rank_is_through(self):
        self.holds.add(1, (3, 4), take=True)
        self.assertEqual(self.pool.held(), {3, 4})
        self.assertEqual(self.holds.update(Report({1: Over(1, 2)})), {})
        self.assertEqual(self.pool.held(), {3, 4})
        self.assertEqual(self.holds.update(Report({1: Over(1, 1)})), {1: 1})
        # The chain's end first: it is what vLLM may reuse first.
        self.assertEqual((self.pool.held(), self.pool.freed), (set(), [4, 3]))

    def test_a_load_is_held_only_when_it_lingers(self):
        self.holds.add(1, (3,), take=False)
        self.assertEqual(self.pool.held(), set())
        self.holds.update(Report(lingering={1}))
        self.holds.update(Report(lingering={1}))
        self.assertEqual(self.pool.blocks[3].refs, 1)
        self.holds.update(Report({1: Over(2, 0)}))
        self.assertEqual((self.pool.held(), len(self.holds)), (set(), 0))
        self.assertEqual(self.holds.update(Report({1: Over(2, 0)})), {})

    def test_an_idle_engine_asks_for_a_bounded_time(self):
        self.assertFalse(self.holds.worth_stepping() or self.holds.may_free_soon())
        self.holds.add(1, (3,), take=True)
        self.assertTrue(self.holds.worth_stepping() and self.holds.may_free_soon())
        self.now = 1.0
        self.assertFalse(self.holds.may_free_soon())
        self.now = 60.0
        self.assertFalse(self.holds.worth_stepping())


class SmallPartsTest(unittest.TestCase):
    def test_reports_of_ranks_add_up(self):
        first = Report({1: Over(1, 5), 2: Over(1, 1)}, {7}, {"a"})
        both = first.merge(Report({1: Over(1, 3)}, set(), {"b"}))
        self.assertEqual(both.over, {1: Over(2, 3), 2: Over(1, 1)})
        self.assertEqual((both.lingering, both.failed_requests), ({7}, {"a", "b"}))

    def test_tiers_of_a_stretch(self):
        runs = (Run(Tier.DRAM, 3, 0), Run(Tier.NVME, 4, 0), Run(Tier.DRAM, 2, 0))
        found = Found(9, runs, 9, 0.0)
        for start, end, counts in (
            (0, 9, {Tier.DRAM: 5, Tier.NVME: 4}), (3, 7, {Tier.NVME: 4}),
            (2, 4, {Tier.DRAM: 1, Tier.NVME: 1}), (5, 5, {}), (8, 20, {Tier.DRAM: 1}),
        ):  # fmt: skip
            self.assertEqual(found.tiers(start, end), counts)

    def test_a_question_is_given_up_in_time(self):
        question = Question(give_up_at=5.0)
        self.assertIsNone(question.poll(4.9))
        self.assertEqual(question.poll(5.0).blocks, 0)

    def test_a_daemon_that_did_not_answer_is_left_alone_for_a_while(self):
        now = 0.0
        breaker = Breaker(5.0, lambda: now)
        self.assertTrue(breaker.lets_through())
        breaker.failed()
        self.assertFalse(breaker.lets_through())
        now = 5.0
        self.assertTrue(breaker.lets_through())

    def test_routers_hear_of_what_is_gone(self):
        announced = Announced(announced_max=3)
        self.assertEqual(announced.stored([b"a", b"b", b"c"]), [])
        self.assertEqual(announced.looked_up([b"a", b"b", b"x"], 1), [b"b"])
        self.assertEqual(announced.looked_up([b"a", b"b"], 1), [])
        self.assertEqual(announced.stored([b"d", b"e"]), [b"a"])

    def test_counts(self):
        counts = Counts()
        counts.add("lookups", 2)
        counts.merge({"lookups": 1, "stored_blocks": 4})
        self.assertEqual(counts.take(), {"lookups": 3, "stored_blocks": 4})
        self.assertFalse(counts.take())
        with self.assertRaises(AssertionError):
            counts.add("typo")


if __name__ == "__main__":
    unittest.main()
