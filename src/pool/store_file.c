/* SPDX-License-Identifier: Apache-2.0 */
#include "store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "store.h"

_Static_assert(SP_SEAL_KEY == crypto_aead_chacha20poly1305_ietf_KEYBYTES, "the key's size");
_Static_assert(SP_SEAL_TAG == crypto_aead_chacha20poly1305_ietf_ABYTES, "a tag's size");

#define NONCE crypto_aead_chacha20poly1305_ietf_NPUBBYTES

int sp_seal_begin(void)
{
    return sodium_init() < 0 ? -EIO : 0; /* it finds out what the processor can do */
}

int sp_seal_new_key(uint8_t key[SP_SEAL_KEY])
{
    ssize_t n = getrandom(key, SP_SEAL_KEY, 0);

    return n == (ssize_t)SP_SEAL_KEY ? 0 : n < 0 ? -errno : -EIO;
}

/* In no order of bytes but ours: nobody else reads it. */
static void make_nonce(uint8_t nonce[NONCE], const struct sp_seal *seal, uint32_t block)
{
    _Static_assert(sizeof(seal->number) + sizeof(block) == NONCE, "a nonce's size");
    memcpy(nonce, &seal->number, sizeof(seal->number));
    memcpy(nonce + sizeof(seal->number), &block, sizeof(block));
}

void sp_seal_blocks(const struct sp_seal *seal, const void *plain, void *to, uint32_t first,
                    uint32_t n)
{
    uint8_t nonce[NONCE];

    for (uint32_t i = 0; i < n; i++) {
        size_t at = (size_t)i * SP_STORE_FILE_BLOCK;

        make_nonce(nonce, seal, first + i);
        (void)crypto_aead_chacha20poly1305_ietf_encrypt_detached(
            (uint8_t *)to + at, seal->tag + (size_t)(first + i) * SP_SEAL_TAG, NULL,
            (const uint8_t *)plain + at, SP_STORE_FILE_BLOCK, NULL, 0, NULL, nonce, seal->key);
    }
}

int sp_seal_open_blocks(const struct sp_seal *seal, void *blocks, uint32_t first, uint32_t n)
{
    uint8_t nonce[NONCE];

    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = (uint8_t *)blocks + (size_t)i * SP_STORE_FILE_BLOCK;

        make_nonce(nonce, seal, first + i);
        if (crypto_aead_chacha20poly1305_ietf_decrypt_detached(
                at, NULL, at, SP_STORE_FILE_BLOCK, seal->tag + (size_t)(first + i) * SP_SEAL_TAG,
                NULL, 0, nonce, seal->key))
            return -EBADMSG;
    }
    return 0;
}

int sp_store_read_file(int file, void *to, size_t size, uint64_t at)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(file, (char *)to + done, size - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

int sp_store_read_piece(int file, const struct sp_seal *seal, void *to, uint32_t offset,
                        uint32_t size, uint64_t at)
{
    int err = sp_store_read_file(file, to, size, at + offset);

    if (err || !seal->key)
        return err;
    return sp_seal_open_blocks(seal, to, offset / SP_STORE_FILE_BLOCK, size / SP_STORE_FILE_BLOCK);
}

static int write_all(int file, const char *from, size_t size, uint64_t at)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(file, from + done, size - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

int sp_store_write_piece(int file, const struct sp_seal *seal, const void *from, void *room,
                         uint32_t size, uint64_t at)
{
    int err;

    if (seal->key) {
        sp_seal_blocks(seal, from, room, 0, size / SP_STORE_FILE_BLOCK);
        from = room;
    }
    err = write_all(file, from, size, at);
    /* Where the file goes through the page cache: it would be in memory twice. */
    if (!err && !(fcntl(file, F_GETFL) & O_DIRECT)) {
        if (fdatasync(file))
            return -EIO;
        (void)posix_fadvise(file, (off_t)at, (off_t)size, POSIX_FADV_DONTNEED);
    }
    return err;
}

static int take_room(int fd, uint64_t bytes)
{
    int err = fallocate(fd, 0, 0, (off_t)bytes) ? -errno : 0;
    int flags = fcntl(fd, F_GETFL);

    if (!err)
        (void)fcntl(fd, F_SETFL, flags | O_DIRECT); /* or it goes through the page cache */
    return err;
}

int sp_store_file_open(int folder, const char *name, uint64_t bytes)
{
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), err;

    if (fd < 0)
        return -errno;
    err = unlinkat(folder, name, 0) ? -errno : take_room(fd, bytes);
    if (!err)
        return fd;
    close(fd);
    return err;
}
