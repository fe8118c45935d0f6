/* SPDX-License-Identifier: Apache-2.0 */
/* docs/control.md: a request of any bytes is either all right, or wrong use with a sentence. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "control_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_request request;
    char error[256] = "";
    int wrong = sp_control_parse(data, size, &request, error, sizeof(error));

    expect(wrong == 0 || wrong == 2);
    if (wrong) {
        expect(request.error < 0 && error[0] != 0 && strlen(error) < sizeof(error));
        return 0;
    }
    expect(size <= SP_REQUEST_MAX && request.op < SP_OPS);
    expect(memchr(request.key, 0, sizeof(request.key)) != NULL);
    expect(!request.has_pid || request.pid > 0);
    expect(!request.has_uid || request.uid != (uid_t)-1);
    expect(memchr(request.domain, 0, sizeof(request.domain)) != NULL);
    expect(request.op != SP_OP_EXPLAIN || request.has_pid);
    expect(request.op != SP_OP_RECLAIM || request.bytes > 0);
    return 0;
}
