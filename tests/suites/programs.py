# SPDX-License-Identifier: Apache-2.0
"""Programs of everyday use with something to do: what they print and write must be the same, byte for
byte, plain and merged. Each runs twice at once."""

import hashlib
import pathlib
import shutil

from place import text_of
from result import Result

HERE = pathlib.Path(__file__).resolve().parent / "programs"
INSTANCES = 2
SECONDS = 600
WHOLE = "(as a whole)"

# Name: (programs that it needs, command; what it writes to the folder out is compared too).
COMMANDS = {
    "sqlite3": (("sqlite3",), "sqlite3 out/data.db <{here}/sqlite.sql"),
    "perl": (("perl",), "perl {here}/hashes.pl"),
    "node": (("node",), "node {here}/objects.js"),
    "python": (("/usr/bin/python3",), "/usr/bin/python3 {here}/forks.py"),
    "gcc": (("gcc", "perl"), "perl {here}/source.pl >big.c && gcc -O2 -g -fdebug-prefix-map=$PWD=. -c big.c "
                             "-o out/big.o && gcc -O1 -c big.c -o out/small.o"),
    "git": (("git", "perl"), "sh {here}/repository.sh"),
    "sort": (("sort", "perl"), "perl {here}/lines.pl 1500000 >lines && sort --parallel=4 -S 64M lines"),
    "xz": (("xz", "perl"), "perl {here}/lines.pl 300000 >lines && xz -k -T4 --block-size=2MiB -3 -c lines"
                           " >out/lines.xz && xz -dc out/lines.xz | cmp - lines && echo same"),
    "zstd": (("zstd", "perl"), "perl {here}/lines.pl 1500000 >lines && zstd -q -T4 -9 -c lines >out/l.zst"
                               " && zstd -dc out/l.zst | cmp - lines && echo same"),
    "openssl": (("openssl", "perl"), "perl {here}/lines.pl 1000000 >lines && openssl enc -aes-256-cbc -pbkdf2 "
                                     "-iter 300000 -S 0102030405060708 -pass pass:x -in lines -out out/enc && "
                                     "openssl dgst -sha3-512 lines"),
    "tar": (("tar", "gzip"), "tar --sort=name --mtime=@0 -C /usr/share -cf out/doc.tar common-licenses perl5 && "
                             "gzip -kn9 out/doc.tar"),
    "java": (("java", "javac"), "cp {here}/Objects.java . && javac -d . Objects.java && "
                                "java -Xmx192m -XX:+UseParallelGC Objects"),
    "gdb": (("gdb", "gcc"), "gcc -g -O0 -o debugged {here}/debugged.c && gdb -q -nx -batch "
                            "-x {here}/debugged.gdb ./debugged | grep -v 'process [0-9]'"),
}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def printed(log):
    """What the program printed. samepage's line on why it does not merge a program is told apart."""
    lines = log.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"samepage:"))


class Command:
    """One program."""

    kind = "programs"

    def __init__(self, name):
        self.name = name
        self.needs, self.command = COMMANDS[name]

    def missing(self):
        return [name for name in self.needs if not shutil.which(name)]

    def _start(self, place, number):
        folder = place.folder / str(number)
        (folder / "out").mkdir(parents=True)
        return place.start_logged(folder, "/bin/sh", "-c", self.command.format(here=HERE),
                                  env={"LC_ALL": "C", "PYTHONHASHSEED": "0"})

    def run(self, place):
        programs = [self._start(place, number) for number in range(INSTANCES)]
        late = place.wait_all(programs, SECONDS)
        result = Result(INSTANCES)
        for program in programs:
            folder, status = program.log.parent, program.popen.poll()
            whole = "took too long" if program in late else "passed" if status == 0 else "failed"
            written = sorted((folder / "out").iterdir())
            result.add({WHOLE: whole, "what it printed": digest(printed(program.log)),
                        **{path.name: digest(path.read_bytes()) for path in written if path.is_file()}})
            if whole != "passed":
                result.tell(f"exit status {status}", text_of(program.log))
        return result
