"""What the connector counts, as plain numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping

# By name: what it counts.
NAMES = {
    "lookups": "asked of the daemon",
    "lookups_unanswered": "no answer in time, or no daemon",
    "found_tokens": "found by lookups beyond vLLM's own cache",
    "loaded_tokens_hbm": "loaded, by the tier that had them",
    "loaded_tokens_dram": "",
    "loaded_tokens_nvme": "",
    "loaded_tokens_object": "",
    "failed_load_blocks": "could not be loaded, and were computed",
    "offered_blocks": "given to stores",
    "stored_blocks": "taken by the daemon",
    "present_blocks": "there already",
    "dropped_blocks": "not kept by the daemon, or offered to none",
    "dropped_sayings": "hints, ends and leases that could not be told in time, or were too many",
    "failed_calls": "the daemon refused, or was away",
}


class Counts(dict[str, int]):
    """Counts by name; what is not counted is 0."""

    def add(self, name: str, number: int = 1) -> None:
        assert name in NAMES, f"{name} is no count of the connector"
        if number:
            self[name] = self.get(name, 0) + number

    def merge(self, other: Mapping[str, int]) -> None:
        for name, number in other.items():
            self.add(name, number)

    def take(self) -> Counts:
        """What was counted since the last take."""
        taken = Counts(self)
        self.clear()
        return taken
