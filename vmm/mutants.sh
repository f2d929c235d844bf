#!/bin/sh
# Leaves out one step of the map's protocol at a time and shows that the tests which
# docs/protocol.md names for it notice.
#
#   vmm/mutants.sh [NAME...]
#
# The table under "Orderings" there is what is run: each mutant, with each of the
# tests in its row. Without names, all of them. Three builds (for loom, for shuttle,
# for threads), then a run for each; minutes. Exit status 1 if one survives a test in
# its row, 2 if the table and the code do not name the same mutants. JOBS says how
# many run at a time: by default one, or two if cores are idle.
set -u
cd "$(dirname "$0")/.." || exit 2
out=target/mutants
mkdir -p "$out"

# build FLAGS DIRECTORY: prints the path of the test program.
build() {
    RUSTFLAGS="$1 --cfg gracefault_mutants" CARGO_TARGET_DIR="$out/$2" \
        nice cargo test --release -p gracefault --no-default-features --lib --no-run 2>&1 |
        tee "$out/$2.log" | sed -n 's/.*Executable.*(\(.*\))$/\1/p'
}

# tool TEST: what runs it.
tool() {
    case $1 in
        loom_*) echo loom ;;
        shuttle_*) echo shuttle ;;
        *) echo threads ;;
    esac
}

# try MUTANT TEST: runs the test, which is to fail. One that does not end has failed.
# Two preemptions show most of what loom can show, and in a tenth of the time.
try() {
    program=$(cat "$out/$(tool "$2").program")
    test=$("$program" --list | sed -n "s/^\(.*::$2\): test$/\1/p")
    if [ -z "$test" ]; then
        echo "$1: there is no test $2"
        return 1
    fi
    # On threads, one that hangs sleeps for an hour.
    limit=300
    [ "$(tool "$2")" = threads ] && limit=60
    for bound in 2 3; do
        GRACEFAULT_MUTANT=$1 LOOM_MAX_PREEMPTIONS=$bound RUST_BACKTRACE=0 \
            GRACEFAULT_SCHEDULES=20000 GRACEFAULT_SEED=1 \
            timeout $limit nice "$program" --exact "$test" >"$out/$1.$2.log" 2>&1
        status=$?
        if [ $status -ne 0 ]; then
            echo "$1: killed by $2 ($(tool "$2"), status $status)"
            return 0
        fi
        [ "$(tool "$2")" = loom ] || break
    done
    echo "$1: SURVIVED $2"
    return 1
}

if [ "${1:-}" = --try ]; then
    try "$2" "$3"
    exit
fi

# A line for each row: the mutant and its tests.
rows=$(sed -n '/^## Orderings/,/^## Promises/p' vmm/docs/protocol.md |
    sed -n 's/^| `\([a-z-]*\)` |.*|\([^|]*\)|$/\1 \2/p' | tr -d '`,')
in_table=$(echo "$rows" | sed 's/ .*//' | sort)
in_code=$(grep -rhoE '(mutant|unless)\("[a-z-]+"' vmm/src/mm | sed 's/.*("//; s/"//' | sort -u)
if [ "$in_table" != "$in_code" ]; then
    echo "docs/protocol.md and the code do not name the same mutants:" >&2
    printf '%s\n%s\n' "$in_table" "$in_code" | sort | uniq -u >&2
    exit 2
fi
[ $# -gt 0 ] && rows=$(for name in "$@"; do echo "$rows" | grep "^$name "; done)
[ -n "$rows" ] || { echo "there is no mutant $*" >&2; exit 2; }

pairs=$(echo "$rows" | while read -r name tests; do
    for test in $tests; do echo "$name $test"; done
done)
for one in loom shuttle threads; do
    used=no
    for test in $(echo "$pairs" | cut -d' ' -f2); do
        [ "$(tool "$test")" = $one ] && used=yes
    done
    [ $used = yes ] || continue
    flags=""
    [ $one = threads ] || flags="--cfg $one"
    build "$flags" $one >"$out/$one.program"
    [ -s "$out/$one.program" ] || { cat "$out/$one.log" >&2; exit 2; }
done

idle=$(awk -v cores="$(nproc)" '{ print (cores - $1 >= 2 ? 2 : 1) }' /proc/loadavg)
echo "$pairs" | xargs -n 2 -P "${JOBS:-$idle}" "$0" --try | tee "$out/table.log"
count=$(grep -c ": killed by" "$out/table.log")
echo "$count of $(echo "$pairs" | wc -l) killed"
[ "$count" -eq "$(echo "$pairs" | wc -l)" ]
