"""What the scheduler knows of a lookup, and when it asks no more."""

import unittest

from terrace_kv import Run, Tier
from terrace_kv.vllm.lookups import Breaker, Found, Question


class LookupsTest(unittest.TestCase):
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
        self.assertEqual(breaker.shut_s(), 0.0)
        breaker.failed()
        self.assertEqual(breaker.shut_s(), 5.0)
        now = 5.0
        self.assertEqual(breaker.shut_s(), 0.0)


if __name__ == "__main__":
    unittest.main()
