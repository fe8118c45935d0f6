#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds what the torture needs, and runs it: build-test/ with fault points, and for a tenth of the
# time the fuzz targets (where clang has a fuzzer) and the unit tests under sanitizers.
# Usage: torture.sh COMPILER [OPTION OF tests/torture/torture.py...]
set -eu
cd "$(dirname "$0")/.."

compiler=$1
shift
scripts/build.sh build-test "$compiler" /usr/local -Dfault_points=true
TARGET=unit-tests scripts/build.sh build-asan "$compiler" /usr/local -Dfault_points=true \
    -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized
if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
    clang -fsanitize=fuzzer,address,undefined -x c -o /dev/null - 2>/dev/null; then
    TARGET=fuzz-targets scripts/build.sh build-fuzz clang /usr/local -Dfuzz=true \
        -Dbuildtype=debugoptimized
else
    echo "the fuzz targets are left out: clang has no fuzzer runtime here (package libclang-rt-dev)"
fi
exec /usr/bin/python3 tests/torture/torture.py "$@"
