# SPDX-License-Identifier: Apache-2.0
"""What became of each test of a suite in one mode, and whether both modes' are the same."""

import collections


class Result:
    """The tests' outcomes in so many instances of the suite that ran at once. An outcome is "passed",
    "skipped", "failed" or a text that must be the same in both modes, as a digest."""

    def __init__(self, instances):
        self.instances, self._each = instances, collections.defaultdict(list)
        self.told = []  # (where, the end of what it said), where something went wrong
        self.notes = {}  # figures that are no test, for --json

    def add(self, outcomes):
        """One instance's."""
        for test, outcome in outcomes.items():
            self._each[test].append(outcome)

    def fail(self, test, why):
        """What all instances have in common."""
        self._each[test] = ["failed"] * self.instances
        self.tell(test, why)

    def tell(self, where, text, most=4000):
        self.told.append((where, text[-most:]))

    @property
    def tests(self):
        """{test: outcome}, by the worse where the instances differ."""
        return {test: self._worst(each) for test, each in self._each.items()}

    def _worst(self, each):
        if len(each) < self.instances:
            return "missing"
        if len(set(each)) == 1:
            return each[0]
        return next((outcome for outcome in each if is_bad(outcome)), "not the same twice")

    def counts(self):
        """As "31 passed, 2 skipped"; texts count as passed."""
        count = collections.Counter("failed" if is_bad(outcome) else
                                    "skipped" if outcome == "skipped" else "passed"
                                    for outcome in self.tests.values())
        return ", ".join(f"{count[kind]} {kind}" for kind in ("passed", "failed", "skipped")
                         if count[kind]) or "nothing"


def is_bad(outcome):
    return outcome in ("failed", "missing") or " " in outcome


def differences(plain, merged):
    """[(test, outcome plain, outcome merged)] of two {test: outcome}, where a test that does well plain is
    not the same merged."""
    return [(test, plain.get(test, "missing"), merged.get(test, "missing"))
            for test in sorted({*plain, *merged})
            if plain.get(test) != merged.get(test) and not is_bad(plain.get(test, ""))]


def failed(outcomes):
    return sorted(test for test, outcome in outcomes.items() if is_bad(outcome))
