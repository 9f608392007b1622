# shellcheck shell=bash
# Runs named steps one after the other, whatever their results, and sums them up; to be sourced, brings setup.sh along.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

summary=()
failed=0
logs=$out/log
mkdir -p "$logs"

# step name command...: shows and keeps the output; the runners' own result lines reappear in the summary.
step() {
    local name=$1 log start=$SECONDS rc line
    log=$logs/${name//[^[:alnum:].]/-}.log
    shift
    printf '\n=== %s\n' "$name"
    # Not in an if: there "set -e" would not hold inside the command.
    set +e
    (set -e; "$@") 2>&1 | tee "$log"
    rc=${PIPESTATUS[0]}
    set -e
    if [ "$rc" = 0 ]; then summary+=("ok      $name ($((SECONDS - start)) s)")
    else summary+=("FAILED  $name ($((SECONDS - start)) s, $log)"); failed=1
    fi
    while IFS= read -r line; do summary+=("  | $line"); done \
        < <(results "$log")
}

# results log: a summary of ours, or else what cargo test, prove, t/peers/run and libFuzzer say at their ends.
results() {
    if grep -q '^=== summary' "$1"; then sed '1,/^=== summary/d' "$1"
    else grep -E '^(test result: |Files=|Result: |[0-9]+ passed, |--- |stat::number_of_executed_units: )' "$1"
    fi
}

# steps_done: prints the summary and exits.
steps_done() {
    printf '\n=== summary of %s (%d s)\n' "${0##*/}" "$SECONDS"
    printf '%s\n' "${summary[@]}"
    exit "$failed"
}

# other_crates: manifests of the helper crates beside the module.
other_crates() { find "$repo"/scripts/*/ "$repo"/t/ -maxdepth 2 -name Cargo.toml -not -path '*/lib/*' 2>/dev/null | sort; }
