/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X: a program whose ELF image is odd, or changed by what it did before, starts all the same. The
 * image is the input; only what its loader guarantees holds: it is mapped as far as its segments
 * say.
 */
#include <stdlib.h>

#include "fuzz.h"

/* The parts that look into an image are static: only whole files of a process lead to them. */
#include "../../src/agent/elf_objects.c"

#define PAGE 4096u

static void check_line(const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    struct line line = {0};

    if (!copy)
        return;
    memcpy(copy, text, size);
    copy[size] = 0;
    parse_line(&line, copy, copy + size);
    expect(line.name >= copy && line.name <= copy + size);
    free(copy);
}

static void check_object(const struct sp_elf_object *object, uint64_t end)
{
    static const char *const name[] = {"syscall", "munmap", "", "fork"};
    uint64_t start, stop;

    expect(sp_strlen(object->build_id) < SP_ELF_BUILD_ID);
    expect(sp_strlen(object->soname) <= end - object->base);
    for (unsigned i = 0; i < sizeof(name) / sizeof(name[0]); i++)
        (void)sp_elf_function(object, name[i], &start, &stop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sp_elf_object object;
    struct search search = {.objects = &object, .max = 1};
    struct line line = {.name = "program"};
    size_t mapped = size < PAGE ? PAGE : size; /* a file's first page is whole in memory */
    char *image = aligned_alloc(PAGE, (mapped + PAGE - 1) / PAGE * PAGE);

    check_line((const char *)data, size);
    if (!image)
        return 0;
    mapped = (mapped + PAGE - 1) / PAGE * PAGE;
    memset(image, 0, mapped);
    memcpy(image, data, size);
    if (!(image[0] & 1)) { /* else the whole header is the input's */
        Elf64_Ehdr *header = (Elf64_Ehdr *)image;

        memcpy(header->e_ident, ELFMAG, SELFMAG);
        header->e_ident[EI_CLASS] = ELFCLASS64;
        header->e_phentsize = sizeof(Elf64_Phdr);
    }
    search.header.address = line.start = (uint64_t)image;
    line.end = line.start + mapped;
    object.base = line.start;
    if (is_elf(line.start) && (!read_size(&object) || object.image_end <= line.end)) {
        add_object(&search, &line);
        expect(search.count == 1);
        check_object(&object, line.end);
    }
    free(image);
    return 0;
}
