// SPDX-License-Identifier: Apache-2.0
// Objects, strings, arrays and threads under a collecting virtual machine that makes code as it runs.
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

public class Objects {
    static long work(int seed) {
        Map<String, List<Integer>> groups = new HashMap<>();
        int x = seed;
        for (int i = 0; i < 200000; i++) {
            x = x * 1103515245 + 12345;
            groups.computeIfAbsent("name-" + (x >>> 8) % 4001, k -> new ArrayList<>()).add(x);
        }
        long[] sums = groups.entrySet().stream().sorted(Map.Entry.comparingByKey())
            .mapToLong(e -> e.getKey().hashCode() * 31L + e.getValue().stream().mapToLong(v -> v).sum())
            .toArray();
        return Arrays.hashCode(sums);
    }

    public static void main(String[] args) {
        for (int round = 0; round < 6; round++) {
            long[] answers = new long[6];
            IntStream.range(0, 6).parallel().forEach(n -> answers[n] = work(n % 3));
            System.out.println(round + " " + Arrays.toString(answers));
        }
    }
}
