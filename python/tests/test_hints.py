"""What is said beside requests: directives, actions in both spellings, sessions."""

import json
import time
import unittest

from rig import DaemonCase, chain
from terrace_kv import (
    DaemonGone,
    Invalid,
    Kind,
    OutcomeStatus,
    SessionState,
    Stop,
    Tier,
    daemon_block,
    daemon_sessions,
    hints,
)

ACCEPTED, CLIPPED, DEFERRED, REJECTED, MISSING = list(OutcomeStatus)[1:]
HOUR_MS = 3_600_000


class HintsTest(DaemonCase):
    def statuses(self, engine, *actions):
        return [one.status for one in engine.client.hint(*actions)]

    def test_directives_are_in_the_blocks_records(self):
        engine = self.engine()
        hashes = chain(8, seed=1)
        wish = hints.Wish(priority=80, ttl_ms=HOUR_MS, kind=Kind.SYSTEM)
        directives = [
            hints.Directive(wish, hints.TokenRange(0, 64)),
            hints.Directive(hints.Wish(kind=Kind.REASONING), hints.TokenRange(64)),
        ]
        stored = engine.store(hashes, directives=directives, request=5)
        self.assertEqual((stored.taken_blocks, stored.clipped_blocks), (8, 0))
        head, tail = (engine.client.inspect(hashes[place]).record for place in (0, 7))
        self.assertEqual((head.priority, head.kind, head.floor), (80, Kind.SYSTEM, Tier.OBJECT))
        self.assertGreater(head.shield_until_unix_us, time.time_ns() // 1000)
        self.assertEqual(head.refresh_on_hit_ms, HOUR_MS)
        self.assertEqual((tail.priority, tail.kind, tail.floor), (35, Kind.REASONING, Tier.DRAM))
        used = engine.client.end_request(5)
        self.assertEqual((used.created_1h_tokens, used.uncached_tokens), (64, 64))

    def test_directives_that_make_no_sense_are_refused(self):
        engine = self.engine()
        hashes = chain(2, seed=2)
        for wish, tokens in (
            (hints.Wish(priority=101), None),
            (hints.Wish(ttl_ms=0), None),
            (hints.Wish(priority=1), hints.TokenRange(16, 16)),
            (hints.Wish(priority=-1), None),
            (hints.Wish(priority=1), hints.TokenRange(-1)),
        ):
            with self.subTest(wish=wish), self.assertRaises(Invalid):
                directives = [hints.Directive(wish, tokens)]
                engine.client.store(hashes, engine.handle, [0, 1], directives=directives)
        many = [
            hints.Directive(hints.Wish(priority=1), hints.TokenRange(n, n + 1)) for n in range(65)
        ]
        with self.assertRaises(Invalid):
            engine.client.store(hashes, engine.handle, [0, 1], directives=many)
        with self.assertRaises(Invalid):
            overlapping = [hints.Directive(hints.Wish(priority=1))] * 2
            engine.client.store(hashes, engine.handle, [0, 1], directives=overlapping)

    def actions(self, name, hashes):
        session = hints.SessionTokens(name, hints.TokenRange(0, 32))
        return [
            hints.SessionStart(name),
            hints.SessionStart(f"{name}/sub", parent=name),
            hints.Retain(hints.Blocks(hashes), hints.Wish(priority=60)),
            hints.Pin(session, hints.Wish(kind=Kind.SYSTEM)),
            hints.Release(hints.SessionTokens("nobody")),
            hints.ToolStart(name, expected_ms=5000),
            hints.ToolReturn(name),
            hints.Demote(hints.SessionTree(name), Tier.DRAM),
            hints.Retain(session, hints.Wish()),
            hints.Prefetch(hints.Blocks(hashes), to=Tier.DRAM, deadline_ms=0),
            hints.SpeculativePrefill(hints.SessionTokens("nobody"), priority=50),
            hints.SpeculativePrefill(session="nobody"),
            hints.CancelPrefetch(999_999),
            hints.SessionReset("nobody", action_id="last"),
        ]

    EXPECTED = (
        *(ACCEPTED, ACCEPTED, ACCEPTED, ACCEPTED, MISSING),
        *(ACCEPTED, ACCEPTED, ACCEPTED, REJECTED),
        *(REJECTED, MISSING, MISSING, MISSING, MISSING),
    )

    def test_every_action_both_ways(self):
        engine = self.engine()
        outcomes = {}
        for way in ("typed", "envelope"):
            hashes = chain(4, seed=len(way))
            engine.store(hashes)
            engine.client.lookup(hashes, session=way, request=3)
            actions = self.actions(way, hashes)
            if way == "typed":
                outcomes[way] = engine.client.hint(*actions)
            else:
                answer = engine.client.hint_envelope(hints.envelope(actions, "m-1"))
                self.assertEqual(answer.message_id, "m-1")
                outcomes[way] = answer.outcomes
            self.assertEqual(engine.client.inspect(hashes[0]).record.priority, 60)
            engine.client.end_request(3)
        typed, enveloped = outcomes["typed"], outcomes["envelope"]
        self.assertEqual(tuple(one.status for one in typed), self.EXPECTED, typed)
        self.assertEqual(
            [(one.action_id, one.status, one.blocks) for one in typed],
            [(one.action_id, one.status, one.blocks) for one in enveloped],
        )
        self.assertEqual([one.action_id for one in typed[:2]], ["0", "1"])
        self.assertEqual((typed[2].blocks, typed[3].blocks, typed[-1].action_id), (4, 2, "last"))
        self.assertTrue(typed[8].message)

    def test_envelopes_as_text_and_those_that_are_none(self):
        engine = self.engine()
        made = hints.envelope([hints.SessionStart("text")], "m")
        for spelled in (made, json.dumps(made), json.dumps(made).encode()):
            outcomes = engine.client.hint_envelope(spelled).outcomes
            self.assertEqual(outcomes[0].status, ACCEPTED)
        for wrong in ("{", {}, {**made, "protocol_version": "7"}, b"\xff"):
            with self.subTest(wrong), self.assertRaises(Invalid):
                engine.client.hint_envelope(wrong)

    def test_verbs_that_are_only_known_by_name_are_rejected(self):
        engine = self.engine()
        payload = {"target": {"session": "x"}}
        action = {"action_id": "a", "action_type": "prefetch", "action_version": "1.0"}
        envelope = {**hints.envelope([], "m"), "actions": [{**action, "payload": payload}]}
        (outcome,) = engine.client.hint_envelope(envelope).outcomes
        self.assertIn(outcome.status, (ACCEPTED, CLIPPED, DEFERRED, REJECTED, MISSING))
        self.assertEqual(outcome.action_id, "a")

    def test_too_many_actions_and_ids_said_twice(self):
        engine = self.engine()
        start = hints.SessionStart("s", action_id="same")
        for actions in ([start, start], [hints.SessionStart("s")] * 257):
            with self.assertRaises(Invalid):
                engine.client.hint(*actions)

    def test_a_session_lives_and_ends(self):
        engine = self.engine()
        hashes = chain(6, seed=20)
        engine.store(hashes[:4], session="agent", request=1)
        engine.client.end_request(1, stop=Stop.TOOL_USE)
        self.assertEqual(
            self.statuses(
                engine,
                hints.SessionStart("sub", parent="agent"),
                hints.ToolStart("agent", expected_ms=60_000),
            ),
            [ACCEPTED, ACCEPTED],
        )
        known = {one.session: one for one in engine.client.sessions().sessions}
        self.assertEqual(known["sub"].parent, "agent")
        agent = known["agent"]
        self.assertEqual((agent.state, agent.blocks), (SessionState.IN_TOOL, 4))
        self.assertEqual(agent.namespace, engine.space.digest())
        self.assertGreater(agent.expected_unix_us, time.time_ns() // 1000)
        self.assertEqual(engine.client.inspect(hashes[0]).claims, 1)
        self.assertEqual(self.statuses(engine, hints.SessionEnd("agent", tree=True)), [ACCEPTED])
        self.assertEqual(self.statuses(engine, hints.SessionEnd("agent")), [MISSING])
        self.assertTrue(engine.client.inspect(hashes[0]).dead)
        self.assertEqual(engine.matched(hashes), 4)

    def test_a_promise_to_forget_is_kept(self):
        engine = self.engine()
        hashes = chain(3, seed=21)
        directive = hints.Directive(hints.Wish(delete_after_ms=300))
        engine.store(hashes, directives=[directive])
        deadline = time.monotonic() + 10
        while engine.matched(hashes):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_operators_need_not_be_clients(self):
        engine = self.engine()
        hashes = chain(2, seed=22)
        engine.store(hashes, session="watched")
        names = [one.session for one in daemon_sessions(self.daemon.socket, 1000).sessions]
        self.assertIn("watched", names)
        block = daemon_block(self.daemon.socket, engine.space.key(hashes[1]))
        self.assertEqual(block.position, 1)
        with self.assertRaises(Invalid):
            daemon_sessions(self.daemon.socket, 1001)
        with self.assertRaises(DaemonGone):
            daemon_block(self.daemon.folder / "no.sock", b"0" * 16)


if __name__ == "__main__":
    unittest.main()
