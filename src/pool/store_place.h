/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the store's file lies (swap_file): on a disk, with all its room taken, and nowhere else.
 *
 * The path is somebody's word. It may lead to a file system whose server never answers, and then
 * whoever looks there, or closes what was opened there, may not even be killed: so a process of its
 * own looks, for a while, and hands over nothing but a file that is right.
 */
#ifndef SP_POOL_STORE_PLACE_H
#define SP_POOL_STORE_PLACE_H

#include <stddef.h>
#include <stdint.h>

/* As sp_store_file_open() of that absolute path. Its descriptor, or a negative errno with a
 * sentence for the log in why, which says what to do. */
int sp_store_place(const char *path, uint64_t bytes, char *why, size_t why_size);

#endif
