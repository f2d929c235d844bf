#!/bin/sh
# Leaves out one step of the map's protocol at a time and shows which test notices.
#
#   vmm/mutants.sh [NAME...]
#
# Without names, all of them. Two builds (one for loom, one for threads), then a
# run for each mutant; some minutes, most of them for those that need three
# preemptions to be noticed. Exit status 1 if one
# survives. docs/protocol.md says what each step is for.
set -u
cd "$(dirname "$0")/.." || exit 2
out=target/mutants
mkdir -p "$out"

# Steps that a model has to notice, and those that only threads can.
loom="admission clear-mark count count-acquire count-release detached detached-first
drain drain-acquire grace grace-waiters kill-wake later-mark lock-check merge-count
merge-fence merge-mark merge-scan moves piecemeal reader-fence recent
release root-acquire seq-acquire unlock-release vacant-acquire wake-waiters
writer-fence"
threads="reuse-held wake-writer"

# build FLAGS DIRECTORY: prints the path of the test program.
build() {
    RUSTFLAGS="$1 --cfg gracefault_mutants" CARGO_TARGET_DIR="$out/$2" \
        cargo test --release -p gracefault --no-default-features --lib --no-run 2>&1 |
        tee "$out/$2.log" | sed -n 's/.*Executable.*(\(.*\))$/\1/p'
}

# try NAME PROGRAM FILTER SECONDS: runs the tests, and notes which fail. A test
# that does not end within that time has failed.
survived=0
try() {
    for bound in 2 3; do
        GRACEFAULT_MUTANT=$1 LOOM_MAX_PREEMPTIONS=$bound RUST_BACKTRACE=0 \
            timeout "$4" "$2" "$3" --test-threads=1 >"$out/$1.log" 2>&1
        status=$?
        [ $status -ne 0 ] && break
    done
    killers=$(sed -n 's/^test .*::\([a-z_0-9]*\) \.\.\. FAILED$/\1/p' "$out/$1.log" | tr '\n' ' ')
    if [ $status -eq 0 ]; then
        survived=1
        echo "$1: SURVIVED"
    elif [ -n "$killers" ]; then
        echo "$1: killed by $killers"
    else
        # A test that aborts or hangs is the one without a result.
        killer=$(sed -n 's/^test .*::\([a-z_0-9]*\) \.\.\. *$/\1/p' "$out/$1.log")
        echo "$1: killed by $killer (status $status)"
    fi
}

[ $# -gt 0 ] && loom=$(for m in $loom; do case " $* " in *" $m "*) echo "$m" ;; esac; done)
[ $# -gt 0 ] && threads=$(for m in $threads; do case " $* " in *" $m "*) echo "$m" ;; esac; done)
if [ -n "$loom" ]; then
    program=$(build "--cfg loom" loom)
    [ -n "$program" ] || { cat "$out/loom.log" >&2; exit 2; }
    for mutant in $loom; do try "$mutant" "$program" loom 600; done
fi
if [ -n "$threads" ]; then
    program=$(build "" threads)
    [ -n "$program" ] || { cat "$out/threads.log" >&2; exit 2; }
    for mutant in $threads; do try "$mutant" "$program" mm::tests 60; done
fi
exit $survived
