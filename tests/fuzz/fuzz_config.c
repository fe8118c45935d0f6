/* SPDX-License-Identifier: Apache-2.0 */
/* samepaged.conf(5): a file of any bytes is either all right and in range, or wrong with a line. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config_file.h"
#include "fuzz.h"
#include "store.h"

static bool ends(const char *text, size_t size)
{
    return memchr(text, 0, size) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_config config = SP_CONFIG_DEFAULT;
    char *text = malloc(size ? size : 1);
    char why[400] = "";
    int err;

    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    err = sp_config_parse("fuzz", text, size, &config, why, sizeof(why));
    free(text);
    if (err) {
        expect(strncmp(why, "fuzz:", 5) == 0 && why[5] >= '1' && why[5] <= '9');
        expect(strlen(why) > 12 && !strchr(why, '\n') && !strchr(why, 27));
        return 0;
    }
    for (unsigned i = 0; i < SP_SETTINGS; i++)
        expect(config.value[i] >= sp_settings[i].min && config.value[i] <= sp_settings[i].max);
    expect(config.max_programs >= 1 && config.max_programs <= SP_MAX_CLIENTS);
    expect(config.max_connections >= 1 && config.max_connections <= SP_MAX_CONNECTIONS);
    expect(ends(config.socket, sizeof(config.socket)) &&
           ends(config.log_file, sizeof(config.log_file)));
    expect(config.allow.nusers <= SP_USERS_MAX && config.userfaultfd.ngroups <= SP_USERS_MAX);
    expect(ends(config.swap.file, sizeof(config.swap.file)) && (!config.swap.file[0] || config.swap.file[0] == '/'));
    expect(config.swap.memory >= SP_SWAP_LEAST && (!config.swap.file[0] || config.swap.size >= SP_SWAP_LEAST));
    expect(config.swap.memory <= SP_STORE_MOST_BYTES && config.swap.size <= SP_STORE_MOST_BYTES);
    expect(!config.swap.encrypt || config.swap.file[0]);
    expect(!config.swap.reclaim_max || config.swap.reclaim_max >= config.swap.reclaim_min);
    return 0;
}
