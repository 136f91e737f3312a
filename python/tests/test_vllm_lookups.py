"""What the scheduler knows of a lookup."""

import unittest

from terrace_kv import Run, Tier
from terrace_kv.vllm.lookups import Found, Question


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


if __name__ == "__main__":
    unittest.main()
