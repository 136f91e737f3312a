"""What agents say in a request's fields, as directives and actions."""

import unittest

from rig import DaemonCase, chain
from terrace_kv import Invalid, Kind, hints
from terrace_kv.vllm import hints as said

MINUTES_5, HOUR = 300_000, 3_600_000


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
        self.assertTrue(made.final)
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
            {"terrace": {"directives": [{"priority": 150}]}},
            {"terrace": {"directives": [{"end": 1 << 64, "priority": 50}]}},
            {"terrace": {"directives": [7]}},
            {"cache_control": {"ttl": "²s"}},
            {"cache_control": {"end": 1 << 64}},
            {"terrace": {"session": "s" * 129}},
            {"terrace": {"session": "\ud800"}},
            {"terrace": {"session": 7}},
        ):
            with self.subTest(params):
                made = self.check(params)
                self.assertTrue(made.notes)
        for params in ([], "text", 7, {"terrace": 3, "nvext": [], "agent_hints": None}):
            with self.subTest(params):
                self.check(params)

    def test_one_that_makes_no_sense_leaves_the_others(self):
        given = [{"end": 32, "priority": 150}, {"start": 32, "ttl_ms": 5000, "kind": None}]
        made = self.check({"terrace": {"directives": given}}, (32, None, {"ttl_ms": 5000}))
        self.assertIn("priority is 150: give 0 to 100", made.notes[0])

    def test_the_last_directives_are_taken_and_the_others_noted(self):
        def made(count: int, **more) -> said.RequestHints:
            given = [{"start": at, "end": at + 1, "priority": at % 2} for at in range(count)]
            return lowered({"terrace": {"directives": given}, **more})

        self.assertEqual(made(64).notes, [])
        for request in (made(65), made(64, agent_hints={"priority": 1})):
            self.assertEqual(len(request.directives), 64)
            self.assertEqual(request.directives[0].tokens.start, 1)
            self.assertIn("only the last 64", request.notes[0])


class WishesTest(DaemonCase):
    """What is taken here is what the daemon takes: it refuses stores for anything else."""

    def test_both_sides_agree(self):
        engine, hashes = self.engine(), chain(1)
        most = (1 << 64) - 1
        for wish, makes_sense in (
            ({}, True),
            ({"priority": 0}, True),
            ({"priority": 100, "priority_ms": 1}, True),
            ({"priority": 101}, False),
            ({"priority": -1}, False),
            ({"priority": 1.5}, False),
            ({"priority_ms": 1}, False),
            ({"priority": 1, "priority_ms": 0}, False),
            ({"ttl_ms": most}, True),
            ({"ttl_ms": most + 1}, False),
            ({"ttl_ms": 0}, False),
            ({"ttl_ms": "long"}, False),
            ({"ttl_ms": 1, "refresh_on_hit": False}, True),
            ({"ttl_ms": 1, "refresh_on_hit": []}, False),
            ({"refresh_on_hit": True}, False),
            ({"delete_after_ms": most}, True),
            ({"delete_after_ms": 0}, False),
            ({"kind": 0}, True),
            ({"kind": 7, "floor": 4, "scope": 3}, True),
            ({"kind": 8}, False),
            ({"kind": "poem"}, False),
            ({"floor": 5}, False),
            ({"scope": []}, False),
        ):
            with self.subTest(wish):
                # As it is, and as it is read.
                self.assertEqual(self.is_stored(engine, hashes, hints.Wish(**wish)), makes_sense)
                self.assertEqual(self.is_read(engine, hashes, wish), makes_sense)

    def is_read(self, engine, hashes, wish) -> bool:
        made = lowered({"terrace": {"directives": [wish]}})
        for one in made.directives:
            self.assertTrue(self.is_stored(engine, hashes, one.wish))
        return not made.notes

    def is_stored(self, engine, hashes, wish: hints.Wish) -> bool:
        try:
            engine.store(hashes, directives=[hints.Directive(wish)])
        except Invalid:
            return False
        return True


if __name__ == "__main__":
    unittest.main()
