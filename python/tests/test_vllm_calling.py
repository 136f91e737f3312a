"""When a daemon is left alone, and what an operator hears of it."""

import logging
import unittest
from types import SimpleNamespace as Bag

from terrace_kv import NotFound
from terrace_kv.vllm import calling
from terrace_kv.vllm.calling import Breaker, Caller, Notes
from terrace_kv.vllm.lookups import _release

_LOG = logging.getLogger("terrace_kv.vllm")


class CallingTest(unittest.TestCase):
    def test_a_daemon_that_did_not_answer_is_left_alone_for_a_while(self):
        now = 0.0
        breaker = Breaker(5.0, lambda: now)
        self.assertEqual(breaker.shut_s(), 0.0)
        breaker.failed()
        self.assertEqual(breaker.shut_s(), 5.0)
        now = 5.0
        self.assertEqual(breaker.shut_s(), 0.0)


class NotesTest(unittest.TestCase):
    def setUp(self):
        self.addCleanup(_LOG.setLevel, _LOG.level)
        _LOG.setLevel(logging.WARNING)

    def said(self, say) -> int:
        """How many lines of the log it makes."""
        with self.assertLogs(_LOG) as lines:
            _LOG.warning("")
            say()
        return len(lines.output) - 1

    def test_a_note_is_said_once_an_hour_and_so_many_at_most(self):
        now = 0.0
        notes = Notes(lambda: now)
        self.assertEqual(self.said(lambda: [notes.say("same") for _ in range(3)]), 1)
        flood = [str(number) for number in range(300)]
        self.assertEqual(self.said(lambda: [notes.say(one) for one in flood]), 255)
        now = calling._NOTES_S
        self.assertEqual(self.said(lambda: notes.say("same")), 1)

    def test_what_hints_name_leaves_room_to_what_the_daemon_lacks(self):
        caller = Caller(Bag(connected=True), 0.0)
        flood = [str(number) for number in range(300)]
        self.said(lambda: [caller.hints.say(one) for one in flood])

        def gone(_):
            raise NotFound("what it names")

        self.assertEqual(self.said(lambda: caller.call(gone)), 1)

    def test_a_lease_that_is_over_is_no_news(self):
        def release(_):
            raise NotFound("no such lease")

        caller = Caller(Bag(connected=True, release=release), 0.0)
        self.assertEqual(self.said(lambda: caller.call(lambda one: _release(one, None))), 0)


if __name__ == "__main__":
    unittest.main()
