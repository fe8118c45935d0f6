# SPDX-License-Identifier: Apache-2.0
"""The driver of the torture: its world (daemon and workers), what it does to it, what it tells."""
