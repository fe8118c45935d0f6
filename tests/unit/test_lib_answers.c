/* SPDX-License-Identifier: Apache-2.0 */
/* libsamepage reads the daemon's answers as json-c writes them. */
#include <stdio.h>
#include <string.h>

#include "inside.h"

static const char answer[] = "{\"comm\":\"a\\\"pages\\\":7\",\"pages\":2048,\"saved\":-12,\"cpu\":0.25,"
                             "\"little\":5.0000000000000002e-05,\"none\":0.0}";

static int failures;

static void check(const char *key, double low, double high)
{
    double got = sp_lib_number(answer, key);

    if (got >= low && got <= high)
        return;
    printf("%s: %g is not between %g and %g\n", key, got, low, high);
    failures++;
}

int main(void)
{
    char text[32];

    check("pages", 2048, 2048);
    check("saved", -12, -12);
    check("cpu", 0.2499, 0.2501);
    check("little", 4.9e-05, 5.1e-05);
    check("none", 0, 0);
    check("absent", 0, 0);
    sp_lib_text(answer, "comm", text, sizeof(text));
    if (strcmp(text, "a\"pages\":7")) {
        printf("comm: %s\n", text);
        failures++;
    }
    return failures != 0;
}
