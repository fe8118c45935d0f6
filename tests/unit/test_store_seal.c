/* SPDX-License-Identifier: Apache-2.0 */
/* S8, S1: what is encrypted in the store's file opens only with its key, at its place, of its time
 * and whole; and nothing of it can be read there. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "store_file.h"

#define BLOCKS 3u
#define BYTES  (BLOCKS * SP_STORE_FILE_BLOCK)

static uint8_t key[SP_SEAL_KEY], tag[BLOCKS * SP_SEAL_TAG];
static unsigned char plain[BYTES], sealed[BYTES];

static struct sp_seal seal_of(uint64_t number)
{
    return (struct sp_seal){.key = key, .number = number, .tag = tag};
}

static int begin(void **state)
{
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    for (size_t i = 0; i < BYTES; i++)
        plain[i] = (unsigned char)(i % SP_STORE_FILE_BLOCK % 251);
    return sp_seal_begin();
}

/* What OpenSSL 3.0's chacha20-poly1305 makes of the same key, nonce and bytes. */
static void s1_it_is_chacha20_poly1305(void **state)
{
    static const uint8_t first[] = {0xcb, 0xf4, 0x09, 0x8d, 0x4e, 0xda, 0x48, 0x31,
                                    0x21, 0x56, 0xf6, 0x47, 0x9b, 0xba, 0x8c, 0x31};
    static const uint8_t last[] = {0xa3, 0x8c, 0x2f, 0xdd, 0x97, 0xa5, 0x61, 0x6f,
                                   0xe3, 0x1d, 0xab, 0x56, 0xfa, 0xc5, 0xba, 0xc7};
    static const uint8_t tagged[] = {0xf7, 0xaf, 0xa4, 0xd0, 0xd3, 0xb5, 0xd2, 0xa7,
                                     0xfc, 0x2c, 0x60, 0xda, 0xac, 0x85, 0x4b, 0x2a};
    struct sp_seal seal = seal_of(UINT64_C(0x1111111111111111));

    sp_seal_blocks(&seal, plain, sealed, 0, 1);
    assert_memory_equal(sealed, first, sizeof(first));
    assert_memory_equal(sealed + SP_STORE_FILE_BLOCK - sizeof(last), last, sizeof(last));
    assert_memory_equal(tag, tagged, sizeof(tagged));
}

static void s1_what_was_sealed_opens(void **state)
{
    struct sp_seal seal = seal_of(7);

    sp_seal_blocks(&seal, plain, sealed, 0, BLOCKS);
    /* The same bytes look different in each block. */
    assert_memory_not_equal(sealed, sealed + SP_STORE_FILE_BLOCK, SP_STORE_FILE_BLOCK);
    assert_int_equal(sp_seal_open_blocks(&seal, sealed, 0, BLOCKS), 0);
    assert_memory_equal(sealed, plain, BYTES);
}

/* Changes one thing after the blocks were sealed; the second block must not open. */
enum change { NOTHING, A_BIT, A_TAG, THE_KEY, THE_NUMBER, THE_BLOCK };

static int open_after(enum change change)
{
    struct sp_seal seal = seal_of(7);

    sp_seal_blocks(&seal, plain, sealed, 0, BLOCKS);
    switch (change) {
    case NOTHING:
        break;
    case A_BIT:
        sealed[SP_STORE_FILE_BLOCK + 1000] ^= 16;
        break;
    case A_TAG:
        tag[SP_SEAL_TAG] ^= 1;
        break;
    case THE_KEY:
        key[31] ^= 128;
        break;
    case THE_NUMBER:
        seal.number++;
        break;
    case THE_BLOCK: /* that of another place, with its own tag */
        memcpy(sealed + SP_STORE_FILE_BLOCK, sealed, SP_STORE_FILE_BLOCK);
        memcpy(tag + SP_SEAL_TAG, tag, SP_SEAL_TAG);
        break;
    }
    return sp_seal_open_blocks(&seal, sealed + SP_STORE_FILE_BLOCK, 1, 1);
}

static void s8_nothing_else_opens(void **state)
{
    assert_int_equal(open_after(NOTHING), 0);
    assert_int_equal(open_after(A_BIT), -EBADMSG);
    assert_int_equal(open_after(A_TAG), -EBADMSG);
    assert_int_equal(open_after(THE_NUMBER), -EBADMSG);
    assert_int_equal(open_after(THE_BLOCK), -EBADMSG);
    assert_int_equal(open_after(THE_KEY), -EBADMSG);
    key[31] ^= 128;
}

static void s1_keys_are_not_the_same(void **state)
{
    uint8_t a[SP_SEAL_KEY], b[SP_SEAL_KEY];

    assert_int_equal(sp_seal_new_key(a), 0);
    assert_int_equal(sp_seal_new_key(b), 0);
    assert_memory_not_equal(a, b, sizeof(a));
}

/* By way of the file, from the middle of a piece. */
static void s1_s8_pieces_in_a_file(void **state)
{
    int file = memfd_create("file", MFD_CLOEXEC);
    struct sp_seal seal = seal_of(9), none = {0};
    static unsigned char room[BYTES], got[BYTES];

    assert_true(file >= 0);
    assert_int_equal(sp_store_write_piece(file, &seal, plain, room, BYTES, BYTES), 0);
    assert_int_equal(sp_store_read_piece(file, &none, got, 0, BYTES, BYTES), 0);
    assert_null(memmem(got, BYTES, plain, 32));
    assert_int_equal(
        sp_store_read_piece(file, &seal, got, SP_STORE_FILE_BLOCK, 2 * SP_STORE_FILE_BLOCK, BYTES),
        0);
    assert_memory_equal(got, plain + SP_STORE_FILE_BLOCK, 2 * SP_STORE_FILE_BLOCK);
    assert_int_equal(sp_store_read_piece(file, &seal, got, 0, SP_STORE_FILE_BLOCK, 0), -EBADMSG);
    /* A read that ends early is an error, whatever was read. */
    assert_int_equal(ftruncate(file, 2 * BYTES - 100), 0);
    assert_int_equal(sp_store_read_piece(file, &seal, got, 0, BYTES, BYTES), -EIO);
    assert_int_equal(sp_store_read_piece(file, &seal, got, 0, SP_STORE_FILE_BLOCK, BYTES), 0);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s1_it_is_chacha20_poly1305), cmocka_unit_test(s1_what_was_sealed_opens),
        cmocka_unit_test(s8_nothing_else_opens),      cmocka_unit_test(s1_keys_are_not_the_same),
        cmocka_unit_test(s1_s8_pieces_in_a_file),
    };

    return cmocka_run_group_tests(tests, begin, NULL);
}
