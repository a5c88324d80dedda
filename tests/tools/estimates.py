"""Check that a sum of adjusted counts is close enough to the true number."""

from __future__ import annotations

import math


class Estimate:
    """The true number of traces, and its estimate from the kept ones."""

    LUCK = math.log(2e6)  # one test in a million may fail without a fault

    def __init__(self):
        self.truth = self.sum = self.variance = self.largest = 0.0

    def came(self, probability):
        self.truth += 1
        self.variance += 1 / probability - 1
        self.largest = max(self.largest, 1 / probability)

    def kept(self, count):
        self.sum += count

    @property
    def is_right(self):
        """By Bernstein's inequality, which holds for any number of traces and any mix of probabilities."""
        room = math.sqrt(2 * self.LUCK * self.variance) + self.LUCK * self.largest / 3
        return abs(self.sum - self.truth) <= (room if self.variance else 1e-6)
