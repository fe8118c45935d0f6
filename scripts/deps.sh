#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Sees to it that all that building, testing and the demo need is there (Debian packages).
# As root it installs what is missing, and starts no service; otherwise it says what to install.
# Usage: deps.sh [--kernel] [--tests] [--bench] [--suites]
#   --kernel  also checks for a kernel that can run samepage
#   --tests   also what only the tests need
#   --bench   also the programs that the bench merges; its guests boot Debian's cloud kernel
#   --suites  also the test suites and programs that are run merged
set -eu

packages=(
    make gcc libc6-dev binutils pkg-config meson ninja-build
    libxxhash-dev libjson-c-dev libsystemd-dev libinih-dev
    libfuse3-dev fuse3 liblz4-dev libzstd-dev libsodium-dev
    libcmocka-dev python3 python3-pytest
    redis-server redis-tools
)
# Without which a few tests are skipped, by name.
useful=()

kernel=
for option; do
    case $option in
    --kernel) kernel=yes ;;
    # The fuzz targets are clang's; tests with sanitizers have gcc's runtime with gcc.
    --tests) packages+=(clang libclang-rt-dev strace gdb) useful+=(musl-tools libpython3.11-testsuite
        prometheus-node-exporter ksmtuned) ;;
    # The kernel package makes /boot/vmlinuz-*, initramfs-tools /boot/initrd.img-*; no boot loader.
    --bench) packages+=(qemu-system-x86 linux-image-cloud-amd64 initramfs-tools busybox
        python3-pandas nodejs) ;;
    --suites) packages+=(libpython3.11-testsuite python3-dev sqlite3 perl git nodejs gdb xz-utils zstd
        openssl) ;;
    *)
        echo "deps.sh: $option: no such option" >&2
        exit 2
        ;;
    esac
done

if [ -n "$kernel" ]; then
    release=$(uname -r)
    major=${release%%.*}
    minor=${release#*.}
    minor=${minor%%[!0-9]*}
    if [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -lt 8 ]; }; then
        echo "samepage needs Linux 6.8 or newer (UFFDIO_MOVE); this is $release." >&2
        echo "It builds here, but it can merge nothing: run demo and tests elsewhere." >&2
        exit 1
    fi
fi

if ! command -v dpkg-query >/dev/null; then
    # Not Debian: look for the things themselves.
    missing=()
    for tool in gcc meson ninja pkg-config python3; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    for lib in libxxhash json-c libsystemd inih fuse3 liblz4 libzstd libsodium cmocka; do
        pkg-config --exists "$lib" 2>/dev/null || missing+=("$lib (development files)")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        printf 'missing: %s\n' "${missing[@]}" >&2
        echo "This is no Debian, so install them by hand and try again." >&2
        exit 1
    fi
    exit 0
fi

is_there() {
    # A package may be there for several architectures; pkg-config may be provided by pkgconf.
    case $(dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null || true) in
    *"ok installed"*) ;;
    *) [ "$1" = pkg-config ] && command -v pkg-config >/dev/null ;;
    esac
}

missing=()
for package in "${packages[@]}"; do
    is_there "$package" || missing+=("$package")
done
wanted=()
for package in "${useful[@]}"; do
    is_there "$package" || wanted+=("$package")
done
[ ${#missing[@]} -gt 0 ] || [ ${#wanted[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    [ ${#missing[@]} -gt 0 ] || exit 0
    echo "missing packages: ${missing[*]}" >&2
    echo "install them with: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing: ${missing[*]} ${wanted[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    # The way of Debian to install a server without starting it.
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
# A bare machine knows of no package before the update; one that cannot reach its source may have all.
apt-get update -q || [ ${#missing[@]} -eq 0 ]
[ ${#missing[@]} -eq 0 ] || apt-get install -q -y --no-install-recommends "${missing[@]}"
for package in "${wanted[@]}"; do
    apt-get install -q -y --no-install-recommends "$package" ||
        echo "not installed: $package (tests that need it are skipped)"
done
