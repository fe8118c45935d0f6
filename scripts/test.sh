#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs every test; the last line is "N passed, N failed", with ", N skipped" if any were.
#
# Four builds: build/ as it ships, build-test/ with fault points, build-asan/ for the unit tests
# under ASan and UBSan, build-fuzz/ for the fuzz targets (clang). Exit status 1 if anything failed or could not be built.
set -u
cd "$(dirname "$0")/.."

compiler=${1:-gcc}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
beside=
trap 'stop_beside; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

stop_beside() {
    [ -z "$beside" ] || kill -- "-$beside" 2>/dev/null
}

add() {
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

finish() {
    line="$passed passed, $failed failed"
    [ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
    echo "$line"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

build() {
    folder=$1
    shift
    echo "== building $folder"
    scripts/build.sh "$folder" "$compiler" /usr/local "$@" || {
        echo "$folder could not be built"
        add 0 1 0
        return 1
    }
}

# One cmocka program. A test that began and neither passed nor was skipped has failed, so that a
# crash counts; a program that fails outside of a test counts as one.
run_unit() {
    program=$1
    timeout 120 "$program" >"$work/unit.log" 2>&1
    status=$?
    ran=$(grep -c '^\[ RUN ' "$work/unit.log")
    ok=$(grep -c '^\[       OK \]' "$work/unit.log")
    skip=$(grep -E '^\[  SKIPPED \] [A-Za-z0-9_]+$' "$work/unit.log" | sort -u | wc -l)
    bad=$((ran - ok - skip))
    if [ "$ran" -eq 0 ] && [ $status -eq 0 ]; then
        ok=1 bad=0
    elif [ "$ran" -eq 0 ] && [ $status -eq 77 ]; then
        skip=1 bad=0
    elif [ $status -ne 0 ] && [ $bad -le 0 ]; then
        bad=1
    fi
    add "$ok" "$bad" "$skip"
    echo "$program: $ok passed, $bad failed, $skip skipped"
    [ "$bad" -eq 0 ] || grep -v '^\[       OK \]\|^\[ RUN ' "$work/unit.log" | tail -n 60
}

run_units() {
    for program in "$1"/tests/unit/test_*; do
        [ -f "$program" ] && [ -x "$program" ] && run_unit "$program"
    done
}

# The engine on the simulated machine: some seeds, lists of steps that failed once, and two planted bugs.
run_sim() {
    if build-test/samepage-sim --seeds 600 >"$work/sim.log" 2>&1; then
        add 1 0 0
    else
        cat "$work/sim.log"
        add 0 1 0
    fi
    for steps in tests/sim/steps/*.steps; do
        if build-test/samepage-sim --replay "$steps" >"$work/sim.log" 2>&1; then
            add 1 0 0
        else
            echo "$steps: $(cat "$work/sim.log")"
            add 0 1 0
        fi
    done
    if CC=$compiler /usr/bin/python3 tests/sim/mutants.py --only 2; then
        add 2 0 0
    else
        add 0 1 0
    fi
}

# Can clang link a fuzz target here?
has_fuzzer() {
    echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' >"$work/fuzz.c"
    clang -fsanitize=fuzzer,address,undefined -o "$work/fuzz" "$work/fuzz.c" 2>/dev/null
}

# Each fuzz target, for some seconds, counts as one test; an input that breaks it is kept.
run_fuzz() {
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        if [ "$1" = skip ]; then
            echo "$name: skipped: clang has no fuzzer runtime here (package libclang-rt-dev)"
            add 0 0 1
            continue
        fi
        mkdir "$work/$name"
        seeds=tests/fuzz/seeds_${name#fuzz_}
        [ -d "$seeds" ] || seeds=
        # The second time limit is for a target that hangs, and then says where.
        if timeout -s TERM -k 10 90 "build-fuzz/tests/fuzz/$name" -max_total_time=2 -timeout=20 \
            -max_len=8192 -rss_limit_mb=2048 -artifact_prefix="build-fuzz/$name-" "$work/$name" \
            $seeds >"$work/fuzz.log" 2>&1; then
            echo "$name: $(grep -o 'DONE.*corp' "$work/fuzz.log" | sed 's/DONE *//; s/ corp//')"
            add 1 0 0
        else
            echo "$name: failed"
            tail -n 60 "$work/fuzz.log"
            add 0 1 0
        fi
    done
}

run_pytest() {
    echo "== end to end"
    # Two at a time (tests/e2e/lib/workers.py): most tests wait for something most of the time.
    timeout --foreground -s INT -k 30 2700 /usr/bin/python3 -m pytest -q -ra -p no:cacheprovider --two \
        --junitxml "$work/e2e.xml" tests/e2e
    status=$?
    read -r ok bad skip < <(/usr/bin/python3 - "$work/e2e.xml" <<'PY'
import sys
import xml.etree.ElementTree as ET
try:
    suites = list(ET.parse(sys.argv[1]).getroot().iter("testsuite"))
    total, bad, skip = (sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "skipped"))
    bad += sum(int(s.get("errors", 0)) for s in suites)
    print(max(0, total - bad - skip), bad, skip)
except (OSError, ET.ParseError):
    print(0, 0, 0)
PY
    )
    # On a time out, pytest gets INT, so that it cleans up and still reports what ran.
    # 0: all well; 1: tests failed, and are counted; anything else (time out, crash) is a failure.
    if [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then
        echo "pytest ended with status $status"
        bad=1
    fi
    add "$ok" "$bad" "$skip"
}

# The end-to-end tests do not use all of the processors' time: this is done beside them, and gives way.
run_beside() {
    renice -n 15 "$BASHPID" >/dev/null
    run_sim
    export TARGET=unit-tests
    if build build-asan -Dfault_points=true -Db_sanitize=address,undefined -Db_lundef=false \
        -Dbuildtype=debugoptimized; then
        echo "== unit tests with ASan and UBSan"
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 run_units build-asan
    fi
    export TARGET=fuzz-targets
    if ! has_fuzzer; then
        run_fuzz skip
    elif compiler=clang build build-fuzz -Dfuzz=true -Dbuildtype=debugoptimized; then
        echo "== fuzz targets"
        run_fuzz run
    fi
}

start_beside() {
    set -m # a process group of its own, to be ended with all that it started
    (
        passed=0 failed=0 skipped=0
        echo "== simulator"
        run_beside
        echo "$passed $failed $skipped" >"$work/beside.sums"
    ) >"$work/beside.log" 2>&1 </dev/null &
    beside=$!
    set +m
}

end_beside() {
    wait "$beside"
    beside=
    cat "$work/beside.log"
    read -r ok bad skip <"$work/beside.sums" || ok=0 bad=1 skip=0
    add "$ok" "$bad" "$skip"
}

build build && build build-test -Dfault_points=true || finish
echo "== unit tests"
run_units build-test
start_beside
run_pytest
end_beside
finish
