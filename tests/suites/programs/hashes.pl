# SPDX-License-Identifier: Apache-2.0
# Hashes, strings, sorting and forked children that each see the whole.
use strict;
use warnings;
use Digest::SHA qw(sha1_hex);
$| = 1;
my %words;
for my $i (1 .. 200000) {
    my $key = sprintf("key-%06d", $i * 7919 % 1000003);
    $words{$key} = { number => $i, text => "text of $key " x ($i % 5) };
}
sub total {
    my $sum = Digest::SHA->new(1);
    $sum->add($_, $words{$_}{number}, $words{$_}{text}) for sort keys %words;
    return $sum->hexdigest;
}
print total(), "\n";
for my $round (1 .. 4) {
    pipe(my $in, my $out) or die $!;
    my $pid = fork() // die $!;
    if (!$pid) {
        $words{$_}{text} .= $round for grep { $words{$_}{number} % 3 == 0 } keys %words;
        print $out total(), "\n";
        exit 0;
    }
    close $out;
    my $said = <$in>;
    waitpid($pid, 0) == $pid && !$? or die "child: $?";
    print "child $round $said";
    $words{$_}{number} += $round for grep { $words{$_}{number} % 5 == 0 } keys %words;
    print "parent $round ", total(), "\n";
}
my $text = join(",", map { "$_=$words{$_}{number}" } sort keys %words);
my $count = () = $text =~ /key-\d*7\d=(\d+)/g;
print length($text), " $count ", sha1_hex($text), "\n";
