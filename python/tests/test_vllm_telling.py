"""What is to be said while the daemon is busy, hangs or is left alone."""

import threading
import time
import unittest

from rig import BLOCK_TOKENS, PATIENCE_S, Daemon, DaemonCase, chain, until
from terrace_kv import Busy, SessionState, TimedOut, hints
from terrace_kv.vllm.hints import RequestHints
from terrace_kv.vllm.telling import Saying
from vllm_engine import Engine, EngineCase
from vllm_rig import teller_of


def known(engine: Engine) -> dict[str, str]:
    """The daemon's sessions and their parents."""
    return {one.session: one.parent for one in engine.client.sessions().sessions}


def begins(session: str) -> RequestHints:
    return RequestHints(session=session, before=[hints.SessionStart(session, "lead")])


def ends(session: str) -> RequestHints:
    return RequestHints(session=session, final=True)


class TellingTest(EngineCase, DaemonCase):
    def test_what_a_request_says_is_told_once_the_pause_is_over(self):
        engine = self.engine()
        said = begins("late")
        said.envelope = hints.envelope([hints.SessionStart("later")], "m")
        engine.asker._caller.breaker.failed()
        request = engine.request(chain(4, seed=1), said)
        self.assertEqual(engine.matched(request), 0)
        until(lambda: {"late", "later"} <= set(known(engine)), "it is told")
        self.assertEqual(known(engine)["late"], "lead")

    def test_what_could_not_be_told_is_counted(self):
        engine = self.engine()
        engine.asker._teller._age_s_max = 0.1
        engine.asker._caller.breaker.failed(0.5)
        engine.request([], begins("untold"))
        until(lambda: not engine.unsaid(), "it is too late")
        self.assertEqual(engine.side.take_counts()["dropped_sayings"], 1)

    def test_a_request_shorter_than_a_block_says_it_too(self):
        engine = self.engine()
        engine.request([], begins("short"))
        until(lambda: known(engine).get("short") == "lead", "it is told")

    def test_an_engine_that_goes_in_order_tells_what_waits(self):
        engine, hashes = self.engine(), chain(4, seed=6)
        request = engine.request(hashes, ends("last"))
        engine.matched(request)
        engine.compute(request, range(4))
        engine.finish(request, range(4))
        # There are no further steps, in which it would hear that its store is over.
        self.assertTrue(engine.unsaid())
        engine.asker.close()
        self.assertNotIn("last", known(engine))

    def test_a_busy_daemon_is_asked_again_when_it_says(self):
        engine, busy = self.engine(pause_s=600.0), [Busy("full", 0.2), Busy("full", 0.0)]
        hint = engine.client.hint

        def full(*actions):
            if busy:
                raise busy.pop()
            return hint(*actions)

        engine.client.hint = full
        request = engine.request(chain(4, seed=2), ends("busy"))
        engine.matched(request)
        self.assertIn("busy", known(engine))
        engine.finish(request)
        until(lambda: "busy" not in known(engine), "its end is told at last")
        self.assertTrue(engine.asker.available())

    def test_requests_are_heard_in_their_order_after_a_pause(self):
        engine = self.engine()
        for turn in range(4):
            session = f"turn {turn}"
            engine.request(chain(2, seed=50 + turn), RequestHints(session=session))
            engine.asker._caller.breaker.failed(0.13)
            for action in (hints.ToolStart(session), hints.ToolReturn(session)):
                said = RequestHints(session=session, envelope=hints.envelope([action], "m"))
                request = engine.request(chain(2, seed=60 + turn), said)
                until(engine.asker.available, "the pause is over")
            engine.matched(request)
            until(lambda: not engine.unsaid(), "all is told")
            (state,) = (
                one.state for one in engine.client.sessions().sessions if one.session == session
            )
            self.assertNotEqual(state, SessionState.IN_TOOL)

    def test_a_lookup_comes_after_all_that_was_said_before_it(self):
        engine, gate, calls = self.engine(), threading.Event(), []
        hint, lookup = engine.client.hint, engine.client.lookup

        def slow(*actions):
            gate.wait(PATIENCE_S)
            calls.append("hint")
            return hint(*actions)

        def noted(*given, **named):
            calls.append("lookup")
            return lookup(*given, **named)

        engine.client.hint, engine.client.lookup = slow, noted
        requests = [engine.request(chain(2, seed=70 + n), begins(f"b{n}")) for n in range(2)]
        time.sleep(0.1)
        gate.set()
        for request in requests:
            engine.matched(request)
        self.assertEqual(calls[0], "hint")
        self.assertEqual(sorted(calls), ["hint", "hint", "lookup", "lookup"])

    def test_what_became_of_hints_is_noted_where_they_were_rejected(self):
        engine = self.engine()
        senseless = [hints.SessionStart(name, name) for name in ("before", "told", "after")]
        before, told, after = senseless
        said = RequestHints(
            before=[before], envelope=hints.envelope([told], "m"),
            after=[hints.SessionEnd("nobody"), after],
        )  # fmt: skip
        request = engine.request(chain(4, seed=3), said)
        engine.matched(request)
        engine.finish(request)
        until(lambda: not engine.unsaid(), "all is told")
        expected = {
            f"a hint was rejected: session {one.session} can't be its own parent"
            for one in senseless
        }
        self.assertEqual(engine.asker._caller.hints.said, expected)

    def test_only_what_does_no_harm_is_said_again_after_no_answer(self):
        engine, calls = self.engine(), []

        def unanswered(_) -> None:
            calls.append("")
            raise TimedOut("no answer")

        for repeatable in (True, False):
            engine.asker._caller.breaker._closed_until = 0.0
            again = engine.asker._tell(Saying(unanswered, repeatable=repeatable))
            self.assertEqual(again, repeatable)
        self.assertEqual(len(calls), 2)

    def test_blocks_that_are_computed_meanwhile_are_offered_afterwards(self):
        engine, hashes = self.engine(), chain(8, seed=4)
        request = engine.request(hashes)
        engine.matched(request)
        engine.asker._caller.breaker.failed()
        engine.side.computed(request.request_id, 4 * BLOCK_TOKENS, lambda _: range(4))
        self.assertFalse(engine.side.take_step().stores)
        until(engine.asker.available, "the pause is over")
        engine.compute(request, range(8))
        engine.settle()
        engine.finish(request, range(8))
        self.assertEqual(engine.matched(engine.request(hashes)), 8 * BLOCK_TOKENS)
        self.assertNotIn("dropped_blocks", engine.side.take_counts())

    def test_and_dropped_where_the_request_ends_before(self):
        engine = self.engine()
        request = engine.request(chain(4, seed=5))
        engine.matched(request)
        engine.asker._caller.breaker.failed()
        engine.side.computed(request.request_id, 4 * BLOCK_TOKENS, lambda _: range(4))
        engine.finish(request, range(4))
        self.assertEqual(engine.side.take_counts()["dropped_blocks"], 4)


class HangTest(unittest.TestCase):
    def test_ends_are_told_to_a_daemon_that_stood_still(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        daemon.start()
        engine = Engine(daemon.socket)
        self.addCleanup(engine.close)
        requests = [engine.request(chain(4, seed=one), ends(f"s{one}")) for one in range(3)]
        for request in requests:
            engine.matched(request)
        self.assertEqual(set(known(engine)), {"s0", "s1", "s2"})
        daemon.freeze()
        for request in requests:
            engine.finish(request)
        until(lambda: not engine.asker.available(), "it is found to hang")
        daemon.thaw()
        until(lambda: not engine.unsaid(), "all is told")
        self.assertEqual(known(engine), {})


class TellerTest(unittest.TestCase):
    def test_it_is_told_in_order_when_the_daemon_is_back(self):
        here: list[bool] = []
        teller, told = teller_of(self, lambda: bool(here))
        for number in range(5):
            teller.add(Saying(lambda _, number=number: number))
        self.assertEqual((told, len(teller.waiting())), ([], 5))
        here.append(True)
        until(lambda: told == [0, 1, 2, 3, 4], "all is told", patience_s=PATIENCE_S)
        until(lambda: not teller.waiting(), "and forgotten")

    def test_what_waited_comes_after_all_that_was_in_line_before_it_was_ready(self):
        here: list[bool] = []
        teller, told = teller_of(self, lambda: bool(here))
        ready: list[bool] = []
        late = Saying(lambda _: 2)
        late.is_ready = lambda: bool(ready)
        teller.add(late)
        teller.add(Saying(lambda _: 1))
        ready.append(True)
        teller.look()
        here.append(True)
        until(lambda: told == [1, 2], "it is told last", lambda: str(told))

    def test_the_time_in_line_begins_after_the_wait(self):
        here: list[bool] = []
        teller, told = teller_of(self, lambda: bool(here), wait_s_max=0.2, age_s_max=0.3)
        late = Saying(lambda _: 1)
        late.is_ready = lambda: False
        teller.add(late)
        time.sleep(0.35)
        here.append(True)
        until(lambda: told == [1], "it is told")

    def test_its_close_waits_for_nobody_who_is_away(self):
        teller, told = teller_of(self, lambda: False)
        teller.add(Saying(lambda _: 1))
        before = time.monotonic()
        teller.close(PATIENCE_S)
        self.assertLess(time.monotonic() - before, 1.0)
        self.assertEqual(told, [])

    def test_what_waits_is_bounded_in_number_and_age(self):
        teller, _ = teller_of(self, lambda: False, age_s_max=0.3, waiting_max=2)
        sayings = [Saying(lambda _: 0) for _ in range(3)]
        for one in sayings:
            teller.add(one)
        self.assertEqual((teller.waiting(), teller.take_dropped()), (sayings[1:], 1))
        until(lambda: not teller.waiting(), "it is too late for them")
        self.assertEqual((teller.take_dropped(), teller.take_dropped()), (2, 0))


if __name__ == "__main__":
    unittest.main()
