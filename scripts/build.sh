#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Configures a build folder when that is needed, and builds it.
# Usage: [TARGET=NAME] build.sh FOLDER COMPILER PREFIX [MESON OPTION...]
set -eu
cd "$(dirname "$0")/.."

folder=$1 compiler=$2 prefix=$3
shift 3
[ "$compiler" = cc ] && compiler=gcc

# What the folder was configured with: when it changes, meson has to begin anew.
wanted="$compiler $prefix $*"
if [ ! -f "$folder/build.ninja" ] || [ "$(cat "$folder/.configured" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$folder"
    CC=$compiler meson setup "$folder" --prefix "$prefix" "$@" >/dev/null || {
        cat "$folder/meson-logs/meson-log.txt" >&2 2>/dev/null || true
        exit 1
    }
    echo "$wanted" >"$folder/.configured"
fi
ninja -C "$folder" --quiet ${TARGET:+"$TARGET"}
