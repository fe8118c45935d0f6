#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the error returns of the engine that were never taken: error_returns.py SOURCES... reads what
gcov --json-format --branch-probabilities --stdout said from standard input. An error return is a statement
that returns, or sets, a negative errno, NULL, SP_NONE or false; of one with a choice in it each way counts.
Exit status 0: all were taken."""

import json
import pathlib
import re
import sys

ERROR = re.compile(r"\breturn\b[^;]*(-E[A-Z]+|\bNULL\b|\bSP_NONE\b|\bfalse\b)|[^=!<>]= -E[A-Z]+")


def statements(text):
    """Of each statement that gives an error: its first line, its last, and what it says."""
    lines = text.splitlines()
    for first, line in enumerate(lines):
        if not re.search(r"\breturn\b|= -E", line.split("/*")[0]):
            continue
        last = first
        while ";" not in lines[last]:
            last += 1
        if first and "sp_assert(false);" in lines[first - 1]:
            continue  # nothing goes on from there
        said = " ".join(part.strip() for part in lines[first:last + 1])
        if ERROR.search(re.sub(r"[!=]= (SP_NONE|NULL)", "", said)):
            yield first + 1, last + 1, said


def counts(stream):
    """(file, line): how often it ran, and how often each of its branches was taken; over all functions."""
    ran = {}
    for document in stream.read().splitlines():
        for file in json.loads(document)["files"] if document.strip() else ():
            for line in file["lines"]:
                at = ran.setdefault((pathlib.Path(file["file"]).name, line["line_number"]), [0, []])
                at[0] += line["count"]
                at[1] += [branch["count"] for branch in line.get("branches", ())]
    return ran


def main():
    ran = counts(sys.stdin)
    found = missed = 0
    for name in sys.argv[1:]:
        path = pathlib.Path(name)
        for first, last, said in statements(path.read_text()):
            lines = [ran[path.name, n] for n in range(first, last + 1) if (path.name, n) in ran]
            if not lines:
                continue  # a declaration's default, or no code
            found += 1
            if any(count == 0 or ("?" in said and 0 in branches) for count, branches in lines):
                print(f"not taken: {name}:{first}: {said}")
                missed += 1
    print(f"{found} error returns of the engine, {missed} not taken")
    return 1 if missed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
