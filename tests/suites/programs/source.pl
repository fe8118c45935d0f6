# SPDX-License-Identifier: Apache-2.0
# Prints a large C source.
use strict;
use warnings;
print "#include <stdio.h>\n#include <string.h>\n";
for my $i (1 .. 600) {
    print "struct s$i { int a[", $i % 13 + 1, "]; double d; const char *name; };\n",
        "static int f$i(struct s$i *s, int n)\n{\n    int total = n * $i;\n",
        "    for (int i = 0; i < ", $i % 13 + 1, "; i++)\n        total += s->a[i] ^ (n << (i & 3));\n",
        "    s->d += total / 3.0;\n    switch (n % 5) {\n",
        (map { "    case $_: total -= (int)strlen(s->name) * $_; break;\n" } 0 .. 3),
        "    default: break;\n    }\n    return ", ($i > 1 ? "n > $i ? total + (int)s->d : total" : "total"), ";\n}\n";
}
print "int main(void)\n{\n    long total = 0;\n";
print "    { struct s$_ s = { { $_ }, $_, \"name $_\" }; total += f$_(&s, (int)total & 1023); }\n" for 1 .. 600;
print "    printf(\"%ld\\n\", total);\n    return 0;\n}\n";
