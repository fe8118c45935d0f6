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

static bool is_elf(uint64_t address)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)address;

    return memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
           header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_phentsize == sizeof(Elf64_Phdr) &&
           header->e_phoff + header->e_phnum * sizeof(Elf64_Phdr) <= 4096;
}

static void find_build_id(struct sp_elf_object *object, uint64_t address, uint64_t size)
{
    static const char hex[] = "0123456789abcdef";
    uint64_t end = address + size;

    while (address + sizeof(Elf64_Nhdr) <= end) {
        const Elf64_Nhdr *note = (const Elf64_Nhdr *)address;
        const char *name = (const char *)(note + 1);
        const uint8_t *id = (const uint8_t *)name + ((note->n_namesz + 3u) & ~3u);

        if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
            unsigned n = 0;

            for (; n < note->n_descsz && 2 * n + 2 < SP_ELF_BUILD_ID; n++) {
                object->build_id[2 * n] = hex[id[n] >> 4];
                object->build_id[2 * n + 1] = hex[id[n] & 15];
            }
            object->build_id[2 * n] = 0;
            return;
        }
        address = (uint64_t)id + ((note->n_descsz + 3u) & ~3u);
    }
}

/* The dynamic linker has added the bias to the pointers of most objects, but not of all. */
static const void *dynamic_pointer(const struct sp_elf_object *object, uint64_t value)
{
    if (value < object->base)
        value += object->bias;
    return value >= object->base && value < object->image_end ? (const void *)value : NULL;
}

static void read_dynamic(struct sp_elf_object *object, const Elf64_Dyn *dynamic, uint64_t size)
{
    const Elf64_Dyn *end = dynamic + size / sizeof(*dynamic);
    uint64_t soname = 0;

    for (; dynamic < end && dynamic->d_tag != DT_NULL; dynamic++) {
        const void *pointer = dynamic_pointer(object, dynamic->d_un.d_ptr);

        if (dynamic->d_tag == DT_SYMTAB)
            object->symbols = pointer;
        else if (dynamic->d_tag == DT_STRTAB)
            object->strings = pointer;
        else if (dynamic->d_tag == DT_GNU_HASH)
            object->hash = pointer;
        else if (dynamic->d_tag == DT_SONAME)
            soname = dynamic->d_un.d_val;
    }
    if (soname && object->strings)
        object->soname = object->strings + soname;
}

static void read_image(struct sp_elf_object *object)
{
    const Elf64_Phdr *segment = segments_of(object);
    unsigned n = header_of(object)->e_phnum;
    bool first = true;

    for (unsigned i = 0; i < n; i++) {
        if (segment[i].p_type != PT_LOAD)
            continue;
        if (first)
            object->bias = object->base - (segment[i].p_vaddr & ~(uint64_t)0xfff);
        first = false;
        object->image_end = object->bias + segment[i].p_vaddr + segment[i].p_memsz;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t address = object->bias + segment[i].p_vaddr;

        if (address < object->base || address + segment[i].p_memsz > object->image_end)
            continue;
        if (segment[i].p_type == PT_DYNAMIC)
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
    line->name = p;
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
    const uint32_t *table = object->hash, *buckets, *chain;
    uint32_t hash = gnu_hash(name), index;

    if (!table || !object->symbols || !object->strings || !table[0])
        return false;
    buckets = table + 4 + (size_t)table[2] * 2; /* behind the bloom filter's 64-bit words */
    chain = buckets + table[0];
    index = buckets[hash % table[0]];
    if (index < table[1])
        return false;
    for (;; index++) {
        const Elf64_Sym *symbol = &object->symbols[index];
        uint32_t entry = chain[index - table[1]];

        if ((entry | 1) == (hash | 1) && symbol->st_shndx != SHN_UNDEF &&
            sp_streq(object->strings + symbol->st_name, name)) {
            *start = object->bias + symbol->st_value;
            *end = *start + symbol->st_size;
            return true;
        }
        if (entry & 1)
            return false;
    }
}
