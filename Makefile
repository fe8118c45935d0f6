# SPDX-License-Identifier: Apache-2.0
# A thin front of meson and ninja. Everything is built into build/.
#
#   make            installs what is missing (as root; else says what), builds
#   make demo       builds, merges the memory of real programs, prints what that saved
#   make bench      builds, measures samepage beside ksmd (as root); BENCH=name,... ROUNDS=n
#   make test       builds and runs every test
#   make test-suites  runs other people's test suites plain and merged (as root); SUITES=name,... MORE=1
#   make torture    tortures merged programs (as root); MINUTES=20 SEED=n, STORE=1: and has their frames leave
#                   memory, TORTURE="--help" for more
#   make sim        the engine on a simulated machine: SEEDS=100000 of them, or SEED=n; make sim-mutants
#                   plants bugs in the engine, which the simulator must find; make coverage: what it reaches
#   make scale      the engine's time and bytes on up to 100 million pages, beside a red-black tree
#   make install    PREFIX=/usr/local, DESTDIR for packages
#   make clean      removes the build folders

PREFIX ?= /usr/local
BUILD = build

BENCH ?=
ROUNDS ?=
SUITES ?=
MORE ?=
MINUTES ?=
SEED ?=
TORTURE ?=

.PHONY: all deps demo bench test test-suites torture sim sim-mutants coverage scale install clean format format-check
.NOTPARALLEL:

all: deps
	@scripts/build.sh $(BUILD) "$(CC)" "$(PREFIX)"

deps:
	@scripts/deps.sh

demo: all
	@scripts/deps.sh --kernel
	@/usr/bin/python3 demo/demo.py --build $(BUILD)

bench: all
	@scripts/deps.sh --kernel --bench
	@/usr/bin/python3 bench/bench.py --build $(BUILD) $(if $(BENCH),--only "$(BENCH)") \
		$(if $(ROUNDS),--rounds "$(ROUNDS)")

test:
	@scripts/deps.sh --kernel --tests
	@scripts/test.sh "$(CC)"

torture:
	@scripts/deps.sh --kernel --tests
	@scripts/torture.sh "$(CC)" $(if $(MINUTES),--minutes "$(MINUTES)") \
		$(if $(SEED),--seed "$(SEED)") $(if $(STORE),--store) $(TORTURE)

test-suites: all
	@scripts/deps.sh --kernel --suites
	@/usr/bin/python3 tests/suites/suites.py --build $(BUILD) $(if $(SUITES),--only "$(SUITES)") \
		$(if $(MORE),--more) $(if $(ROUNDS),--rounds "$(ROUNDS)")

sim: all
	@$(BUILD)/samepage-sim $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(SEED),--seed "$(SEED)")

sim-mutants: all
	@CC="$(CC)" /usr/bin/python3 tests/sim/mutants.py

scale: all
	@$(BUILD)/samepage-scale

coverage:
	@scripts/coverage.sh $(SEEDS)

install: all
	DESTDIR="$(DESTDIR)" meson install -C $(BUILD) --no-rebuild --quiet

clean:
	rm -rf build build-test build-asan build-fuzz

SOURCES = $(shell git ls-files '*.c' '*.h')

format:
	clang-format -i $(SOURCES)

format-check:
	clang-format --dry-run --Werror $(SOURCES)
