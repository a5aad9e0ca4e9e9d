#!/usr/bin/env bash
# Runs what pack.sh has packed, on a machine with a GPU:
#
#   ./run.sh                     tests, sanitizer, kernels, trainings, e2e, in this order
#   ./run.sh tests kernels       these only
#
#   LOGS   folder of logs and summary.md (./out)      JOBS   parts of tests at once (processors, 16 at most)
#   LIMIT  seconds for each part (600)                ONLY   parts whose name matches this expression
#   TOTAL  seconds for everything: what does not fit is stopped, or not begun and named (no limit)
#   INTO   a folder that gets summary.md, the tables' data and all logs as one archive: what to carry home
#
# Compiled kernels are kept in LOGS/cache unless BYES_CACHE names a folder. compute-sanitizer is looked for in PATH and in CUDA's folders; where there
# is none its step says so. Exit 1 if anything failed, was stopped or did not begin, or nothing ran.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "${LOGS:=out}"
LOGS=$(CDPATH='' cd -- "$LOGS" && pwd) || exit 2
readonly LOGS LIMIT=${LIMIT:-600} TOTAL=${TOTAL:-1000000} ONLY=${ONLY:-.} INTO=${INTO:-} STEPS=(tests sanitizer kernels trainings e2e)
processors=$(nproc)
readonly JOBS=${JOBS:-$((processors < 16 ? processors : 16))}
readonly AFTER=10 # seconds that the summary takes
for n in JOBS LIMIT TOTAL; do
  [[ ${!n} =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: $n is ${!n}: want a whole number, 1 or more" >&2; exit 2; }
done
export BYES_TEST_DEVICE=${BYES_TEST_DEVICE:-cuda} BYES_CACHE=${BYES_CACHE:-$LOGS/cache}
if [[ -d data ]]; then export BYES_TESTDATA=${BYES_TESTDATA:-$PWD/data}; fi
readonly summary=$LOGS/summary.md

# Tests of device/cuda that take long, with a process each, and one that measures free memory, which goes alone. The others are dealt to SHARDS processes.
readonly SHARDS=6 ALONE=TestAllocTellsWhatIsFree
readonly LONG=(TestGoldenBNB/Blockwise4 TestGoldenBNB/Blockwise8 TestGoldenBNB/Linear4bit TestProducts TestNorms TestAttentionCuDNN TestCodedProducts
  TestChainsEqualTheProcessor TestSoftmaxShapes TestAttentionOwn)

# seconds are how long a part that begins now may take.
seconds() { local left=$((TOTAL - SECONDS - AFTER)); echo $((left < LIMIT ? left : LIMIT)); }

# part NAME COMMAND... runs a command with a limit of time, if ONLY wants it; its log is NAME.log, its line of the table NAME.row.
part() {
  [[ $1 =~ $ONLY ]] || return 0
  local name=$1 start=$SECONDS rc=0 log=$LOGS/$1.log result limit
  shift
  limit=$(seconds)
  if ((limit < 3)); then
    result="**not begun**"
    : >"$log"
  else
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 || rc=$?
    case $rc in
      0) result=ok ;;
      124 | 137) result="**stopped after $limit s**" ;;
      *) result="**failed ($rc)**" ;;
    esac
    if [[ $rc == 0 ]] && grep -q 'no tests to run' "$log"; then result="no such tests"; fi
  fi
  echo "| $name | $result | $(counted PASS "$log") | $(counted FAIL "$log") | $(counted SKIP "$log") | $(errors_of "$log") | $((SECONDS - start)) |" >"$LOGS/$name.row"
  echo "$name: $result, $((SECONDS - start)) s"
}

# counted is how many tests without subtests of their own ended so; a test with some stands before them in the log with its name and a slash.
counted() {
  awk -v want="--- $1:" 'index($0, "=== RUN") == 1 { n = split($3, at, "/"); name = at[1]; for (i = 2; i <= n; i++) { parent[name] = 1; name = name "/" at[i] } }
    { line = $0; sub(/^ +/, "", line) } index(line, want) == 1 { split(line, w, " "); if (!(w[3] in parent)) count++ } END { print count + 0 }' "$2"
}

# errors_of is what compute-sanitizer counted, where it ran to its end.
errors_of() { sed -nE 's/.*ERROR SUMMARY: ([0-9]+) error.*/\1/p' "$1" | awk '{ n += $1 } END { if (NR) print n }'; }

# in_test NAME is the folder of a test program, which has its testdata.
in_test() { local found=(tests/*/"$1.test" tests/*/*/"$1.test" tests/*/*/*/"$1.test"); for f in "${found[@]}"; do if [[ -e $f ]]; then dirname "$f"; return; fi; done; echo tests; }

# shards deals the tests of device/cuda that have no part of their own.
shards() {
  local own
  own=$(printf '%s\n' "${LONG[@]%/*}" TestDevice TestDeviceOwnProducts "$ALONE")
  env -C "$(in_test cuda)" ./cuda.test -test.list '^Test' | grep -vxF "$own" |
    awk -v n=$SHARDS '/^Test/ { list[NR % n] = list[NR % n] "|" $1 } END { for (i in list) print "rest_" i " cuda -test.run ^(" substr(list[i], 2) ")$" }'
}

# ops lists parts that share the op cases of the conformance suite.
ops() { for ((i = 1; i <= JOBS; i++)); do echo "ops_$i cuda $i/$JOBS -test.run ^TestDevice(OwnProducts)?\$/^Ops\$"; done; }

# parts lists the parts of all tests: name, program and arguments, the longest first.
parts() {
  local t level
  for t in "${LONG[@]}"; do
    level=${t#*/}
    if [[ $level == "$t" ]]; then echo "$t cuda -test.run ^$t\$"; else echo "$level cuda -test.run ^${t%/*}\$/^$level\$"; fi
  done
  echo "device cuda -test.run ^TestDevice\$ -test.skip ^TestDevice\$/^Ops\$"
  shards
  ops
  for t in models lora optim verify; do echo "golden_$t $t -test.run Golden"; done
  for t in cublaslt cudnn nvrtc; do echo "$t $t"; done
}

# at_once reads parts and runs JOBS of them at a time, their names after $1, their programs behind the words of $2.
at_once() {
  local prefix=$1 name test words share
  local -a before
  read -ra before <<<"$2"
  while read -r name test words; do
    while (($(jobs -rp | wc -l) >= JOBS)); do wait -n || true; done
    share=
    if [[ $words =~ ^([0-9]+/[0-9]+)\ (.*) ]]; then share=${BASH_REMATCH[1]} words=${BASH_REMATCH[2]}; fi
    read -ra words <<<"$words"
    part "$prefix$name" env -C "$(in_test "$test")" ${share:+"BYES_TEST_PART=$share"} "${before[@]}" "./$test.test" "${words[@]}" -test.v -test.timeout 0 &
  done
  wait
}

step_tests() {
  echo "alone cuda -test.run ^$ALONE\$" | at_once "" ""
  parts | at_once "" ""
}

step_sanitizer() {
  local tool limit
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
  if [[ -z $tool ]]; then echo "no compute-sanitizer found" | tee "$LOGS/sanitizer_none.note"; return; fi
  # Op cases begin for so long that the program comes to its own end, where errors are counted.
  limit=$(seconds)
  local for_cases=$((limit > 90 ? limit - 45 : limit / 2))
  { ops; echo "device cuda -test.run ^TestDevice\$ -test.skip ^TestDevice\$/^Ops\$"; } |
    PATH=$(dirname "$tool"):$PATH BYES_TEST_SECONDS=$for_cases at_once sanitizer_ "${tool##*/} --tool memcheck --error-exitcode 99"
  { echo; echo "Under compute-sanitizer ($(cat "$LOGS"/sanitizer_*.row | awk -F'|' '{ p += $4; f += $5 } END { print p " cases passed, " f " failed" }'), "
    echo "$(cat "$LOGS"/sanitizer_*.log | grep -c 'the time that BYES_TEST_SECONDS gives is over') left out for time, $(cat "$LOGS"/sanitizer_*.log |
      grep -c '^========= Invalid') accesses outside memory); clean op cases by name:"
    echo
    cat "$LOGS"/sanitizer_ops_*.log | sed -nE 's|^ +--- PASS: TestDevice[A-Za-z]*/Ops/([^/]+)/([a-z0-9]+) .*|\1 \2|p' | sort -u |
      awk '{ of[$1] = of[$1] " " $2 } END { for (c in of) print "    " c ":" of[c] }' | sort; } >"$LOGS/sanitizer_cases.md"
}

step_kernels() { part kernels bin/kernels -json "$LOGS/kernels.json"; }
step_trainings() { part trainings bin/trainings -trainer "$PWD/bin/trainer" -out "$LOGS/trainings.jsonl"; }
step_e2e() { part e2e bin/e2e -device cuda; }

# summarize writes one file: the machine, a table of all parts, what failed, and the tables of the benchmarks.
summarize() {
  local log
  {
    echo "# $(head -n 1 version), $(date -u +%FT%TZ)"
    echo
    sed 's/^/    /' "$LOGS/doctor.txt"
    echo
    echo "| part | result | passed | failed | skipped | sanitizer | s |"
    echo "|---|---|---|---|---|---|---|"
    cat "$LOGS"/*.row
    cat "$LOGS"/*.note
    for log in "$LOGS"/*.log; do
      grep -q -m 1 -e '--- FAIL' -e '^panic:' -e '=========.* Invalid' -e 'FAIL ' "$log" || continue
      printf '\n## %s\n\n' "$(basename "$log" .log)"
      grep -m 40 -A 6 -e '--- FAIL' -e '^panic:' -e '=========.* Invalid' -e '^FAIL ' "$log" | sed 's/^/    /'
    done
    if [[ -s $LOGS/sanitizer_cases.md ]]; then sed '/by name:$/q' "$LOGS/sanitizer_cases.md" | tr '\n' ' ' | sed 's/; clean.*/ (sanitizer_cases.md has their names)/'; echo; fi
    for log in kernels trainings e2e; do
      if [[ -s $LOGS/$log.log ]]; then printf '\n## %s\n\n' "$log"; cat "$LOGS/$log.log"; fi
    done
  } >"$summary" 2>/dev/null
}

# collect puts what is worth carrying home into INTO, few files of some megabytes.
collect() {
  local f
  mkdir -p "$INTO" || return
  for f in summary.md kernels.json trainings.jsonl sanitizer_cases.md; do if [[ -s $LOGS/$f ]]; then cp "$LOGS/$f" "$INTO/"; fi; done
  tar -C "$LOGS" --exclude=./cache -czf "$INTO/logs.tar.gz" .
  echo "$INTO"
}

main() {
  local steps=("$@") s
  ((${#steps[@]})) || steps=("${STEPS[@]}")
  for s in "${steps[@]}"; do
    declare -F "step_$s" >/dev/null || { echo "run.sh: no step $s; there are: ${STEPS[*]}" >&2; exit 2; }
  done
  rm -f "$LOGS"/*.row "$LOGS"/*.log "$LOGS"/*.note "$LOGS"/sanitizer_cases.md
  bin/trainer doctor --quick >"$LOGS/doctor.txt" 2>&1
  head -n 5 "$LOGS/doctor.txt"
  for s in "${steps[@]}"; do "step_$s"; done
  if ! compgen -G "$LOGS/*.row" >/dev/null; then echo "run.sh: no part ran: ONLY=$ONLY names none of them, or its program is missing" >&2; exit 1; fi
  summarize
  echo "$summary"
  if [[ -n $INTO ]]; then collect; fi
  ! grep -q '\*\*' "$LOGS"/*.row
}

main "$@"
