#!/usr/bin/env bash
# Counts the instructions of a request, and compares them with what benches/instructions.txt says:
# more than 3 % above it fails. Counts are the same at every run, but only of one toolchain: with
# another one this says so and passes.
#
#   benches/instructions.sh            # compare
#   benches/instructions.sh --update   # write the file again, with a change that is meant
set -euo pipefail
cd "$(dirname "$0")"
file=instructions.txt
limit=3

toolchain() {
  printf '%s, %s, %s, %s\n' "$(uname -m)" "$(rustc --version)" "$(valgrind --version)" \
    "$(getconf GNU_LIBC_VERSION 2>/dev/null || echo 'no glibc')"
}

if ! command -v valgrind >/dev/null; then
  echo "instructions: not counted, as valgrind is missing"
  exit 0
fi
here=$(toolchain)
pinned=$(sed -n 's/^toolchain: //p' "$file" 2>/dev/null || true)
if [[ ${1:-} != --update && $here != "$pinned" ]]; then
  echo "instructions: not compared, as the figures are of another toolchain"
  echo "  theirs: $pinned"
  echo "  here:   $here"
  exit 0
fi

target=$(cd .. && pwd)/target/counted
cargo build --quiet --release --manifest-path counted/Cargo.toml --target-dir "$target"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Two lengths, so that what happens once drops out.
count() { # mode requests
  valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    "$target/release/counted" "$1" "$2" 2>&1 | awk '/Collected/ { print $NF }'
}
for mode in bare plain sticky log all post h2; do
  short=$(count "$mode" 200)
  long=$(count "$mode" 700)
  echo "$mode $(((long - short) / (8 * 500)))"
done >"$out/counts"

if [[ ${1:-} == --update ]]; then
  { echo "# Instructions a request, user space, the bench's clients and backend included."
    echo "# Written by benches/instructions.sh --update; see benches/README.md."
    echo "toolchain: $here"
    cat "$out/counts"; } >"$file"
  cat "$file"
  exit 0
fi
failed=0
while read -r mode now; do
  was=$(awk -v mode="$mode" '$1 == mode { print $2 }' "$file")
  verdict=$(awk -v now="$now" -v was="$was" -v limit="$limit" 'BEGIN {
    change = 100 * (now - was) / was
    printf "%+.1f %%%s", change, (change > limit ? "  MORE THAN " limit " %" : "") }')
  printf '%-8s %6d instructions a request, was %6d: %s\n' "$mode" "$now" "$was" "$verdict"
  [[ $verdict != *MORE* ]] || failed=1
done <"$out/counts"
if ((failed)); then
  echo "instructions: a request got dearer; benches/README.md says how to find out where"
fi
exit $failed
