/* SPDX-License-Identifier: Apache-2.0 */
#include "elf_objects.h"

#include <errno.h>
#include <stddef.h>

#include <linux/fcntl.h>

#include "mem.h"
#include "sys.h"

/* Older headers lack these. */
#ifndef DT_GNU_HASH
#define DT_GNU_HASH 0x6ffffef5
#endif
#ifndef NT_GNU_BUILD_ID
#define NT_GNU_BUILD_ID 3
#endif

#define FIRST_PAGE     4096u
#define LINE_MAX_BYTES 640u /* longer lines lose the end of their path */

/* A file whose header was mapped; the executable mappings of the same file come after it. */
struct header {
    uint64_t address, device, inode;
};

struct search {
    struct sp_elf_object *objects;
    unsigned max, count;
    struct header header;
    bool overflow;
};

struct line {
    uint64_t start, end, offset, device, inode;
    bool readable, executable;
    const char *name;
};

static void copy_name(char *to, const char *from)
{
    unsigned n = 0;

    for (; from[n] && n + 1 < SP_ELF_NAME; n++)
        to[n] = from[n];
    to[n] = 0;
}

static const Elf64_Ehdr *header_of(const struct sp_elf_object *object)
{
    return (const Elf64_Ehdr *)object->base;
}

static const Elf64_Phdr *segments_of(const struct sp_elf_object *object)
{
    return (const Elf64_Phdr *)(object->base + header_of(object)->e_phoff);
}

/* At least so much of a file's beginning is mapped. */
static bool is_elf(uint64_t address)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)address;

    return memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
           header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_phentsize == sizeof(Elf64_Phdr) &&
           header->e_phoff <= FIRST_PAGE && header->e_phoff % sizeof(uint64_t) == 0 &&
           header->e_phoff + header->e_phnum * sizeof(Elf64_Phdr) <= FIRST_PAGE;
}

/*
 * Are these bytes within the image, and aligned? All of an object is the program's, which may have
 * changed it, so whatever is followed or read in it is asked here first.
 */
static bool is_inside(const struct sp_elf_object *object, uint64_t address, uint64_t size,
                      uint64_t alignment)
{
    return address >= object->base && address <= object->image_end &&
           size <= object->image_end - address && address % alignment == 0;
}

/* Does a string begin there that ends within the image? */
static bool is_string(const struct sp_elf_object *object, const char *string)
{
    for (; is_inside(object, (uint64_t)string, 1, 1); string++)
        if (!*string)
            return true;
    return false;
}

static void find_build_id(struct sp_elf_object *object, uint64_t address, uint64_t size)
{
    static const char hex[] = "0123456789abcdef";
    uint64_t end = address + size;

    while (address + sizeof(Elf64_Nhdr) <= end) {
        const Elf64_Nhdr *note = (const Elf64_Nhdr *)address;
        const char *name = (const char *)(note + 1);
        uint64_t name_bytes = ((uint64_t)note->n_namesz + 3) & ~3ull;
        uint64_t id_bytes = ((uint64_t)note->n_descsz + 3) & ~3ull;
        const uint8_t *id = (const uint8_t *)name + name_bytes;

        address += sizeof(*note) + name_bytes + id_bytes;
        if (address > end)
            return;
        if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
            unsigned n = 0;

            for (; n < note->n_descsz && 2 * n + 2 < SP_ELF_BUILD_ID; n++) {
                object->build_id[2 * n] = hex[id[n] >> 4];
                object->build_id[2 * n + 1] = hex[id[n] & 15];
            }
            object->build_id[2 * n] = 0;
            return;
        }
    }
}

/* The dynamic linker has added the bias to the pointers of most objects, but not of all. */
static const void *dynamic_pointer(const struct sp_elf_object *object, uint64_t value,
                                   uint64_t alignment)
{
    if (value < object->base)
        value += object->bias;
    return is_inside(object, value, 1, alignment) ? (const void *)value : NULL;
}

static void read_dynamic(struct sp_elf_object *object, const Elf64_Dyn *dynamic, uint64_t size)
{
    const Elf64_Dyn *end = dynamic + size / sizeof(*dynamic);
    uint64_t soname = 0;

    for (; dynamic < end && dynamic->d_tag != DT_NULL; dynamic++) {
        uint64_t value = dynamic->d_un.d_val;

        if (dynamic->d_tag == DT_SYMTAB)
            object->symbols = dynamic_pointer(object, value, sizeof(uint64_t));
        else if (dynamic->d_tag == DT_STRTAB)
            object->strings = dynamic_pointer(object, value, 1);
        else if (dynamic->d_tag == DT_GNU_HASH)
            object->hash = dynamic_pointer(object, value, sizeof(uint32_t));
        else if (dynamic->d_tag == DT_SONAME)
            soname = value;
    }
    if (soname && object->strings && soname < object->image_end &&
        is_string(object, object->strings + soname))
        object->soname = object->strings + soname;
}

/* Where the loader put it, and as far as it mapped it. False: nothing is there to be looked into.
 */
static bool read_size(struct sp_elf_object *object)
{
    const Elf64_Phdr *segment = segments_of(object);
    unsigned n = header_of(object)->e_phnum;
    bool first = true;

    object->image_end = object->base;
    for (unsigned i = 0; i < n; i++) {
        if (segment[i].p_type != PT_LOAD)
            continue;
        if (first)
            object->bias = object->base - (segment[i].p_vaddr & ~(uint64_t)(FIRST_PAGE - 1));
        first = false;
        object->image_end = object->bias + segment[i].p_vaddr + segment[i].p_memsz;
    }
    return object->image_end > object->base;
}

static void read_image(struct sp_elf_object *object)
{
    const Elf64_Phdr *segment = segments_of(object);
    unsigned n = header_of(object)->e_phnum;

    if (!read_size(object))
        return;
    for (unsigned i = 0; i < n; i++) {
        uint64_t address = object->bias + segment[i].p_vaddr;

        if (!is_inside(object, address, segment[i].p_memsz, sizeof(uint32_t)))
            continue;
        if (segment[i].p_type == PT_DYNAMIC && address % sizeof(uint64_t) == 0)
            read_dynamic(object, (const Elf64_Dyn *)address, segment[i].p_memsz);
        else if (segment[i].p_type == PT_NOTE)
            find_build_id(object, address, segment[i].p_memsz);
    }
}

static void add_object(struct search *search, const struct line *line)
{
    struct sp_elf_object *object;

    if (search->count == search->max) {
        search->overflow = true;
        return;
    }
    object = &search->objects[search->count++];
    memset(object, 0, sizeof(*object));
    object->base = search->header.address;
    object->text = line->start;
    object->text_end = line->end;
    object->soname = "";
    copy_name(object->name, line->name);
    copy_name(object->build_id, "unknown");
    read_image(object);
}

/* "start-end rwxp offset major:minor inode   path" */
static void parse_line(struct line *line, const char *p, const char *end)
{
    line->start = sp_parse_hex(&p, end);
    p++;
    line->end = sp_parse_hex(&p, end);
    p++;
    line->readable = end - p > 4 && p[0] == 'r';
    line->executable = end - p > 4 && p[2] == 'x';
    p += 5;
    line->offset = sp_parse_hex(&p, end);
    p++;
    line->device = sp_parse_hex(&p, end) << 32;
    p++;
    line->device |= sp_parse_hex(&p, end);
    p++;
    line->inode = sp_parse_dec(&p, end);
    while (p < end && *p == ' ')
        p++;
    line->name = p < end ? p : end;
    for (; p < end; p++)
        if (*p == '/')
            line->name = p + 1;
}

static void take_line(struct search *search, char *text, unsigned length)
{
    struct header *header = &search->header;
    struct line line = {0};

    text[length] = 0;
    parse_line(&line, text, text + length);
    if (!line.inode || !line.readable)
        return;
    if (line.offset == 0)
        *header = (struct header){line.start, line.device, line.inode};
    /* Only what is executed is looked into: any other file might be a device's memory. */
    if (line.executable && header->address && line.device == header->device &&
        line.inode == header->inode && is_elf(header->address))
        add_object(search, &line);
}

/* Calls take_line for each line that read() gives. */
static long read_lines(struct search *search, int fd)
{
    char line[LINE_MAX_BYTES], piece[512];
    unsigned length = 0;
    long n;

    while ((n = sp_sys(__NR_read, fd, piece, sizeof(piece))) > 0)
        for (long i = 0; i < n; i++) {
            if (piece[i] == '\n') {
                take_line(search, line, length);
                length = 0;
            } else if (length + 1 < sizeof(line)) {
                line[length++] = piece[i];
            }
        }
    return n;
}

int sp_elf_find(struct sp_elf_object *objects, unsigned max)
{
    struct search search = {.objects = objects, .max = max};
    long fd = sp_sys(__NR_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0), ret;

    if (sp_is_err(fd))
        return (int)fd;
    ret = read_lines(&search, (int)fd);
    sp_sys(__NR_close, fd);
    if (sp_is_err(ret))
        return (int)ret;
    return search.overflow ? -ENOSPC : (int)search.count;
}

static uint32_t gnu_hash(const char *name)
{
    uint32_t hash = 5381;

    for (; *name; name++)
        hash = hash * 33 + (uint8_t)*name;
    return hash;
}

bool sp_elf_function(const struct sp_elf_object *object, const char *name, uint64_t *start,
                     uint64_t *end)
{
    const uint32_t *table = object->hash;
    uint32_t hash = gnu_hash(name);
    uint64_t bucket, chain, index;

    if (!table || !object->symbols || !object->strings ||
        !is_inside(object, (uint64_t)table, 4 * sizeof(*table), 1) || !table[0])
        return false;
    /* Behind the header of four words and the bloom filter's 64-bit words. */
    bucket = (uint64_t)table + (4 + (uint64_t)table[2] * 2) * sizeof(*table);
    chain = bucket + (uint64_t)table[0] * sizeof(*table);
    bucket += hash % table[0] * sizeof(*table);
    if (!is_inside(object, bucket, sizeof(*table), 1))
        return false;
    index = *(const uint32_t *)bucket;
    if (index < table[1])
        return false;
    for (;; index++) {
        const Elf64_Sym *symbol =
            (const Elf64_Sym *)((uint64_t)object->symbols + index * sizeof(*symbol));
        uint64_t place = chain + (index - table[1]) * sizeof(*table);
        uint32_t entry;

        if (!is_inside(object, (uint64_t)symbol, sizeof(*symbol), 1) ||
            !is_inside(object, place, sizeof(entry), 1))
            return false;
        entry = *(const uint32_t *)place;
        if ((entry | 1) == (hash | 1) && symbol->st_shndx != SHN_UNDEF &&
            is_string(object, object->strings + symbol->st_name) &&
            sp_streq(object->strings + symbol->st_name, name)) {
            *start = object->bias + symbol->st_value;
            *end = *start + symbol->st_size;
            return true;
        }
        if (entry & 1)
            return false;
    }
}
