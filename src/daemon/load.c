/* SPDX-License-Identifier: Apache-2.0 */
#include "load.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define LEAST_NS 1000000u /* of running and waiting: less says little */

void sp_load_enter(struct sp_load *load, const char *schedstat)
{
    uint64_t ran, waited, more_ran, more_waited, stretch;

    if (sscanf(schedstat, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2 || ran < load->ran ||
        waited < load->waited) {
        load->stretch = 1;
        return;
    }
    more_ran = ran - load->ran;
    more_waited = waited - load->waited;
    if (load->stretch && more_ran + more_waited < LEAST_NS)
        return;
    stretch = 1 + more_waited / (more_ran + 1);
    load->stretch = stretch < SP_LOAD_STRETCH_MAX ? (unsigned)stretch : SP_LOAD_STRETCH_MAX;
    load->ran = ran;
    load->waited = waited;
}

void sp_load_measure(struct sp_load *load)
{
    int fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
    char text[96];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    sp_load_enter(load, text);
}
