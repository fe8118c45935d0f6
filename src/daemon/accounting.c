/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting.h"

#include <fcntl.h>
#include <unistd.h>

#include "log.h"
#include "passes.h"

#define SETTING    "/proc/sys/vm/overcommit_memory"
#define LOOK_USECS 1000000u

static bool look(void)
{
    int fd = open(SETTING, O_RDONLY | O_CLOEXEC);
    char value = 0;
    ssize_t n = fd < 0 ? 0 : read(fd, &value, 1);

    if (fd >= 0)
        close(fd);
    return n == 1 && value == '2';
}

bool sp_accounting_is_strict(struct sp_accounting *accounting)
{
    uint64_t now = sp_now_usecs();
    bool was = accounting->strict;

    if (accounting->looked_at && now - accounting->looked_at < LOOK_USECS)
        return was;
    accounting->looked_at = now;
    accounting->strict = look();
    if (accounting->strict && !was)
        sp_log(SP_LOG_WARNING, "vm.overcommit_memory is 2: nothing is merged, for frames count besides "
                               "what the programs are charged; what is merged stays so");
    else if (was && !accounting->strict)
        sp_log(SP_LOG_INFO, "vm.overcommit_memory is not 2 any more: merging goes on");
    return accounting->strict;
}
