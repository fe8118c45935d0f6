/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon and its looker (pins_looker.h) say to each other: one packet each. */
#ifndef SP_DAEMON_PINS_LOOKER_MSG_H
#define SP_DAEMON_PINS_LOOKER_MSG_H

#include <stdint.h>

#define SP_LOOKER_ARGUMENT "--looker"

struct sp_looker_question {
    uint32_t serial;
    int32_t pid;
};

struct sp_looker_answer {
    uint32_t serial; /* the question's */
    uint32_t pins;   /* enum sp_pins */
    uint64_t usecs;  /* that the look took */
    uint64_t cpu_us; /* that the looker has used since it began */
};

#endif
