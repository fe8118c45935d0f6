/* SPDX-License-Identifier: Apache-2.0 */
#include "types.h"

#include <stdlib.h>

bool sp_memory_allowed(const struct sp_engine *engine, size_t more)
{
    return engine->memory_limit == 0 || engine->memory_used + more <= engine->memory_limit;
}

void *sp_memory_get(struct sp_engine *engine, size_t size)
{
    void *memory;

    if (!sp_memory_allowed(engine, size))
        return NULL;
    memory = calloc(1, size);
    if (memory)
        engine->memory_used += size;
    return memory;
}

void *sp_memory_get_lines(struct sp_engine *engine, size_t size)
{
    void *memory;

    if (!sp_memory_allowed(engine, size))
        return NULL;
    memory = aligned_alloc(SP_LINE, size);
    if (memory)
        engine->memory_used += size;
    return memory;
}

void sp_memory_put(struct sp_engine *engine, void *memory, size_t size)
{
    if (!memory)
        return;
    sp_assert(engine->memory_used >= size);
    engine->memory_used -= size;
    free(memory);
}

void *sp_memory_resize(struct sp_engine *engine, void *memory, size_t old, size_t size)
{
    void *resized;

    if (size > old && !sp_memory_allowed(engine, size - old))
        return NULL;
    resized = realloc(memory, size);
    if (resized)
        engine->memory_used += size - old;
    return resized;
}
