# SPDX-License-Identifier: Apache-2.0
"""Why a figure falls short of its target, by the target's name: shown beside it."""

REASONS = {}
