#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How much of the engine the simulator reaches: lines by file and in all, of which below 95 % is a failure;
# then, with the engine's unit tests, the error returns that nothing reached, which is one, too.
# Usage: coverage.sh [SEEDS]
set -eu
cd "$(dirname "$0")/.."

seeds=${1:-2000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=gnu17 -D_GNU_SOURCE -Isrc/engine -Isrc/sim -Isrc/common"

# Not optimised: each way of a choice is counted.
for source in src/engine/*.c; do
    gcc $flags -O0 --coverage -c -o "$work/engine_$(basename "$source" .c).o" "$source"
done
for source in src/sim/*.c; do
    gcc $flags -O1 -c -o "$work/sim_$(basename "$source" .c).o" "$source"
done
gcc --coverage -o "$work/sim" "$work"/*.o
"$work/sim" --seeds "$seeds" >"$work/log" || {
    cat "$work/log"
    exit 1
}
status=0
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
    }' || status=1

for source in tests/unit/test_engine*.c tests/unit/test_table.c tests/unit/test_pieces.c; do
    program="$work/$(basename "$source" .c)"
    wrap=
    [ "$source" != tests/unit/test_engine_short.c ] ||
        wrap=-Wl,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
    gcc $flags -O1 --coverage -o "$program" "$source" tests/unit/{fake_world,outside}.c src/common/block.c \
        "$work"/engine_*.o $wrap -lcmocka
    "$program" >"$work/log" 2>&1 || {
        cat "$work/log"
        exit 1
    }
done
gcov --json-format --branch-probabilities --stdout "$work"/engine_*.gcda |
    /usr/bin/python3 tests/sim/error_returns.py src/engine/*.c || status=1
exit $status
