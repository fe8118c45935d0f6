# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: the place of the build, private daemons, programs under them,
memory cgroups, Redis servers. Nothing in here is a test."""
