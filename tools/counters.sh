#!/usr/bin/env bash
# What the kernels' cases do on the emulated device, counted exactly: one line an entry, sums over its launches (of shared bytes, the most).
# Arguments choose the entries: a part of their names, for example `tools/counters.sh layer_norm`.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --quiet -p scmmgpt-libcuda
cargo build --release --quiet
export LD_LIBRARY_PATH="$PWD/target/release${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
SCMMGPT_EMULATOR_COUNT=1 target/release/scmmgpt-engine doctor --device cuda 2>&1 >/dev/null | awk -v wanted="${1:-}" '
/^libcuda: / { entry = $2; launches[entry]++; next }
/^  / {
    count = $NF
    name = $0
    sub(/ +[0-9]+ *$/, "", name)
    gsub(/^ +| +$/, "", name)
    if (name == "shared bytes") {
        if (count > sum[entry, name]) sum[entry, name] = count
    } else {
        sum[entry, name] += count
    }
    if (!(name in other)) instructions[entry] += count
}
BEGIN {
    columns = split("global sectors|at the least|global bytes|shared requests|bank conflicts|divergent branches|barriers|shared bytes|CTAs", column, "|")
    split("global requests|global sectors|at the least|global bytes|shared requests|bank conflicts|divergent branches|barriers|shared bytes|CTAs", names, "|")
    for (i in names) other[names[i]] = 1
}
END {
    printf "%-46s %8s %12s %10s %10s", "entry", "launches", "instructions", "float", "matrix"
    for (i = 1; i <= columns; i++) printf " %18s", column[i]
    print ""
    fflush()
    for (entry in launches) {
        if (index(entry, wanted) == 0) continue
        line = sprintf("%-46s %8d %12d %10d %10d", entry, launches[entry], instructions[entry], sum[entry, "float"], sum[entry, "matrix"])
        for (i = 1; i <= columns; i++) line = line sprintf(" %18d", sum[entry, column[i]])
        print line | "sort"
    }
}'
