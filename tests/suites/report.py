# SPDX-License-Identifier: Apache-2.0
"""The table and the data of a run."""

from result import differences, failed

HEADER = ("suite", "plain", "merged", "pages merged", "")
VERDICTS = {"same": "the same", "differs": "DIFFERS", "not merged": "NOTHING WAS MERGED",
            "missing": "MISSING", "left out": "left out"}


class Row:
    """A suite's results in both modes, or why it was left out; of an ordinary run none may be: needed."""

    def __init__(self, suite, plain=None, merged=None, where=None, why=None, needed=False):
        self.suite, self.plain, self.merged, self.why, self.needed = suite, plain, merged, why, needed
        self.pages_merged, self.said = 0, []
        self.seconds, self.differences, self.failed_plain = {}, [], set()
        if not why:
            self.pages_merged, self.said = where.pages_merged, sorted(set(where.said))
            self.differences = differences(plain.tests, merged.tests)
            self.failed_plain = set(failed(plain.tests))

    @property
    def verdict(self):
        if self.why:
            return "missing" if self.needed else "left out"
        if self.differences:
            return "differs"
        return "same" if self.pages_merged else "not merged"

    def cells(self):
        if self.why:
            return (self.title, "", "", "", f"{VERDICTS[self.verdict]}: {self.why}")
        notes = VERDICTS[self.verdict]
        if self.failed_plain:
            notes += f"; {len(self.failed_plain)} fail plain, too"
        return (self.title, self.plain.counts(), self.merged.counts(), f"{self.pages_merged:,}", notes)

    @property
    def title(self):
        return f"{self.suite.kind} {self.suite.name}"

    def data(self):
        found = {"suite": self.title, "verdict": self.verdict}
        if self.why:
            return {**found, "why": self.why}
        return {**found, "plain": self.plain.tests, "merged": self.merged.tests,
                "pages_merged": self.pages_merged, "failed_plain": sorted(self.failed_plain),
                "differences": [dict(zip(("test", "plain", "merged"), each)) for each in self.differences],
                "seconds": self.seconds, "samepage_said": self.said,
                "notes": {"plain": self.plain.notes, "merged": self.merged.notes}}


def table(rows):
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in lines)
