/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the kernel account memory strictly (vm.overcommit_memory 2)?
 *
 * There nothing is merged. A program's mapping counts in full whether its pages are merged or not, and the
 * frames count besides: merging could make the programs' own allocations fail. And at the limit the
 * kernel may refuse a move of memory after it unmapped the target (docs/decisions/0017).
 */
#ifndef SP_DAEMON_ACCOUNTING_H
#define SP_DAEMON_ACCOUNTING_H

#include <stdbool.h>
#include <stdint.h>

struct sp_accounting {
    uint64_t looked_at; /* us; 0: never */
    bool strict;
};

/* Whether it does, as of a second ago at most; a change is logged. Where the kernel does not tell: no. */
bool sp_accounting_is_strict(struct sp_accounting *accounting);

#endif
