# SPDX-License-Identifier: Apache-2.0
set confirm off
set pagination off
set width 0
set print address off
break step
run
set $n = 0
while $n < 40
    printf "round %u data %u %u %u\n", round, data[round], data[1000000 + round], data[4194303 - round]
    set $n = $n + 1
    continue
end
set var data[5000] = 7
printf "poked %u\n", data[5000]
delete
continue
