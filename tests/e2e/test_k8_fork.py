# SPDX-License-Identifier: Apache-2.0
"""K8: a forked child's inherited frames are counted as sites of its own, found without merging
again; and what it writes itself is merged too."""

from lib.place import wait_for

PAGES = 2048


def forked(daemon, compiled):
    parents = [daemon.run(compiled("x_rows"), "fork-stay") for _ in range(2)]
    for parent in parents:
        daemon.wait_merged(parent, parent.region())
    wait_for(lambda: f"{daemon.status()}",
             lambda: daemon.status("pages_sharing") >= 0.9 * PAGES)
    for parent in parents:
        parent.say()
        parent.child = int(parent.line().split()[1])
        assert parent.line() == "forked"
    return parents


def test_k8_inherited_sites_are_counted(daemon, compiled):
    parents = forked(daemon, compiled)
    # Two parents and two children on the same frames: three of four sites save a page.
    wait_for(lambda: f"the children's sites are not counted: {daemon.status()}",
             lambda: daemon.status("pages_sharing") >= 0.9 * 3 * PAGES)
    assert daemon.status("pages_shared") <= 1.2 * PAGES
    for parent in parents:
        parent.say()
    fresh = [parent.region("fresh") for parent in parents]
    for parent, area in zip(parents, fresh):
        daemon.wait_merged(parent, area, pid=parent.child)
    for parent in parents:
        parent.say()
        parent.must_finish(0)
