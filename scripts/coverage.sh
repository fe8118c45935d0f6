#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much of the engine the simulator reaches: lines by file and in all; below 95 % is a failure.
# Usage: coverage.sh [SEEDS]
set -eu
cd "$(dirname "$0")/.."

seeds=${1:-2000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=gnu17 -D_GNU_SOURCE -O1 -Isrc/engine -Isrc/sim"

for source in src/engine/*.c; do
    gcc $flags --coverage -c -o "$work/engine_$(basename "$source" .c).o" "$source"
done
for source in src/sim/*.c; do
    gcc $flags -c -o "$work/sim_$(basename "$source" .c).o" "$source"
done
gcc --coverage -o "$work/sim" "$work"/*.o
"$work/sim" --seeds "$seeds" >"$work/log" || {
    cat "$work/log"
    exit 1
}
gcov -n "$work"/*.gcda | awk -v seeds="$seeds" '
    /^File .*src\/engine\/.*\.c/ { name = $2; gsub("\047", "", name); next }
    /^Lines executed:/ && name {
        split($2, part, /[:%]/)
        printf "%6.2f %% of %4d lines  %s\n", part[2], $NF, name
        done += part[2] * $NF / 100
        all += $NF
        name = ""
    }
    END {
        printf "%6.2f %% of %4d lines  in all, by %d seeds\n", 100 * done / all, all, seeds
        exit done < 0.95 * all
    }'
