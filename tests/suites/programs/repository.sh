# SPDX-License-Identifier: Apache-2.0
# A repository with many objects, packed and checked; the same each time.
set -eu
export GIT_AUTHOR_DATE="2020-01-01T00:00:00Z" GIT_COMMITTER_DATE="2020-01-01T00:00:00Z" HOME="$PWD"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q -b main repository
cd repository
for round in 1 2 3 4 5 6; do
    perl -e 'for my $i (1 .. 400) { open my $f, ">", "file-$i" or die; my $n = $i * $ARGV[0];
        print $f map {; "line $_ of ", $_ * $n % 1009, "\n" } 1 .. 200 + $i % 50; close $f; }' "$round"
    git add .
    git commit -q -m "round $round"
done
git fsck --full --strict 2>&1
git -c pack.threads=4 -c gc.auto=0 repack -q -adf --depth=50 --window=30
git fsck --full --strict 2>&1
git log --format='%H %T %s'
git rev-list --objects --all | sort | sha256sum
git cat-file --batch-check --batch-all-objects | sort | sha256sum
git diff --stat HEAD~5 HEAD | sha256sum
git clone -q . ../clone
cd ../clone
git fsck --full 2>&1
git status --short | wc -l
