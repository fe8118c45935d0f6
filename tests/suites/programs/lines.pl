# SPDX-License-Identifier: Apache-2.0
# Prints so many lines, the same each time.
use strict;
use warnings;
my $x = 1;
for my $i (1 .. $ARGV[0]) {
    $x = ($x * 1103515245 + 12345) & 0x7fffffff;
    printf "%08x %d line-%d\n", $x, $x % 1000, $i % 977;
}
