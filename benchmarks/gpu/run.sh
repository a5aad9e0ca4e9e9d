#!/usr/bin/env bash
# Runs what pack.sh has packed, on a machine with a GPU:
#
#   ./run.sh                     tests, sanitizer, kernels, trainings, e2e, in this order
#   ./run.sh tests kernels       these only
#
#   OUT    folder of logs and summary.md (./out)      JOBS   parts of tests at once (processors, 16 at most)
#   LIMIT  seconds for each part (600)                ONLY   parts whose name matches this expression
#   OPS    op cases, by the beginning of their names, that make a part each ("a" to "z")
#
# compute-sanitizer is looked for in PATH and in CUDA's folders; where there is none its step says so. Exit 1 if anything failed or nothing ran.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly OUT=${OUT:-out} LIMIT=${LIMIT:-600} ONLY=${ONLY:-.} STEPS=(tests sanitizer kernels trainings e2e)
processors=$(nproc)
readonly JOBS=${JOBS:-$((processors < 16 ? processors : 16))}
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: JOBS is $JOBS: want how many parts run at once, 1 or more" >&2; exit 2; }
read -ra ops <<<"${OPS:-$(echo {a..z})}"
export BYES_TEST_DEVICE=${BYES_TEST_DEVICE:-cuda}
if [[ -d data ]]; then export BYES_TESTDATA=${BYES_TESTDATA:-$PWD/data}; fi
mkdir -p "$OUT"
readonly summary=$OUT/summary.md

# part NAME COMMAND... runs a command with a limit of time, if ONLY wants it; its log is NAME.log, its line of the table NAME.row.
part() {
  [[ $1 =~ $ONLY ]] || return 0
  local name=$1 start=$SECONDS rc=0 log=$OUT/$1.log result
  shift
  timeout -k 10 "$LIMIT" "$@" >"$log" 2>&1 || rc=$?
  case $rc in
    0) result=ok ;;
    124 | 137) result="**stopped after $LIMIT s**" ;;
    *) result="**failed ($rc)**" ;;
  esac
  if [[ $rc == 0 ]] && grep -q 'no tests to run' "$log"; then result="no such tests"; fi
  echo "| $name | $result | $(counted PASS "$log") | $(counted FAIL "$log") | $(counted SKIP "$log") | $(errors_of "$log") | $((SECONDS - start)) |" >"$OUT/$name.row"
  echo "$name: $result, $((SECONDS - start)) s"
}

# counted is how many tests without subtests of their own ended so; a test with some stands before them in the log with its name and a slash.
counted() {
  awk -v want="--- $1:" 'index($0, "=== RUN") == 1 { n = split($3, at, "/"); name = at[1]; for (i = 2; i <= n; i++) { parent[name] = 1; name = name "/" at[i] } }
    { line = $0; sub(/^ +/, "", line) } index(line, want) == 1 { split(line, w, " "); if (!(w[3] in parent)) count++ } END { print count + 0 }' "$2"
}

# errors_of is what compute-sanitizer counted, where it ran.
errors_of() { sed -nE 's/.*ERROR SUMMARY: ([0-9]+) error.*/\1/p' "$1" | awk '{ n += $1 } END { if (NR) print n }'; }

# parts lists the parts of all tests: name and arguments. The op cases of the conformance suite are split, patterns go level by level.
parts() {
  local p t
  for p in "${ops[@]}"; do echo "ops_$p bin/cuda.test -test.run ^TestDevice\$/^Ops\$/^$p"; done
  for t in cublaslt cudnn nvrtc; do echo "$t bin/$t.test"; done
  for t in models lora optim verify; do echo "golden_$t bin/$t.test -test.run Golden"; done
}

head_line() { echo "| part | result | passed | failed | skipped | sanitizer | s |"; echo "|---|---|---|---|---|---|---|"; }

# at_once reads parts and runs JOBS of them at a time, each behind the words of $1.
at_once() {
  local prefix=$1 before=$2 name rest words
  while read -r name rest; do
    while (($(jobs -rp | wc -l) >= JOBS)); do wait -n || true; done
    read -ra words <<<"$before $rest -test.v -test.timeout 0"
    part "$prefix$name" "${words[@]}" &
  done
  wait
}

step_tests() {
  # What measures free memory and the time of launches goes alone.
  part rest bin/cuda.test -test.skip '^TestDevice$/^Ops$' -test.v -test.timeout 0
  parts | at_once "" ""
}

step_sanitizer() {
  local tool
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
  if [[ -z $tool ]]; then echo "no compute-sanitizer found" | tee "$OUT/sanitizer_none.note"; return; fi
  { parts | grep '^ops_'; echo "device bin/cuda.test -test.run ^TestDevice\$/^(Copies|Streams|Capture|CaptureStreams|Reserve|HostMemory|Kernels)\$"; } |
    at_once sanitizer_ "$tool --tool memcheck --error-exitcode 99"
}

step_kernels() { part kernels bin/kernels -json "$OUT/kernels.json"; }
step_trainings() { part trainings bin/trainings -trainer "$PWD/bin/trainer" -out "$OUT/trainings.jsonl"; }
step_e2e() { part e2e bin/e2e -device cuda; }

# summarize writes one file: the machine, a table of all parts, what failed, and the tables of the benchmarks.
summarize() {
  local log
  {
    echo "# $(head -n 1 version), $(date -u +%FT%TZ)"
    echo
    bin/trainer doctor --quick 2>&1 | sed 's/^/    /'
    echo
    head_line
    cat "$OUT"/*.row
    cat "$OUT"/*.note
    for log in "$OUT"/*.log; do
      grep -q -m 1 -e '--- FAIL' -e '^panic:' -e '=========.* Invalid' -e 'FAIL ' "$log" || continue
      printf '\n## %s\n\n' "$(basename "$log" .log)"
      grep -m 40 -A 6 -e '--- FAIL' -e '^panic:' -e '=========.* Invalid' -e '^FAIL ' "$log" | sed 's/^/    /'
    done
    for log in kernels trainings e2e; do
      if [[ -s $OUT/$log.log ]]; then printf '\n## %s\n\n' "$log"; cat "$OUT/$log.log"; fi
    done
  } >"$summary" 2>/dev/null
}

main() {
  local steps=("$@") s
  ((${#steps[@]})) || steps=("${STEPS[@]}")
  for s in "${steps[@]}"; do
    declare -F "step_$s" >/dev/null || { echo "run.sh: no step $s; there are: ${STEPS[*]}" >&2; exit 2; }
  done
  rm -f "$OUT"/*.row "$OUT"/*.log "$OUT"/*.note
  bin/trainer doctor --quick >"$OUT/doctor.txt" 2>&1
  head -n 5 "$OUT/doctor.txt"
  for s in "${steps[@]}"; do "step_$s"; done
  if ! compgen -G "$OUT/*.row" >/dev/null; then echo "run.sh: no part ran: ONLY=$ONLY names none of them, or its program is missing" >&2; exit 1; fi
  summarize
  echo "$summary"
  ! grep -q '\*\*' "$OUT"/*.row
}

main "$@"
