/* SPDX-License-Identifier: Apache-2.0 */
/* X: what a process names its files, mounts and itself is its own choice; any text is read within
 * bounds, and what is not understood never passes for harmless. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "pins.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), type[16];
    enum sp_pins why;
    unsigned flags;
    int mount;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    expect(sp_pins_of_status(text) != SP_PINS_NONE || (strstr(text, "VmPin:") && strstr(text, "FDSize:")));
    expect(sp_pins_of_mapping(text) == SP_PINS_NONE || strchr(text, '['));
    if (sp_pins_of_link(text, &why) == SP_PINS_LINK_OTHER)
        expect(why != SP_PINS_NONE);
    if (sp_pins_fdinfo(text, &flags, &mount))
        expect(mount >= 0 && strstr(text, "flags:") && strstr(text, "mnt_id:"));
    if (sp_pins_tls_receives(text))
        expect(strstr(text, "TlsCurrRx") != NULL);
    for (int id = -1; id < 40; id++)
        if (sp_pins_mount_type(text, id, type, sizeof(type)))
            expect(strlen(type) < sizeof(type) && strstr(text, " - "));
    free(text);
    return 0;
}
