#!/usr/bin/env bash
# Writes the tables of a GPU into benchmarks/RESULTS.md from the figures that were measured there:
#
#   benchmarks/gpu/tables.sh benchmarks/h200          # kernels.json, trainings.jsonl, and peers.json where there is one
#
# A table stands between the lines "<!-- h200/kernels.json -->" and "<!-- end -->" of the page; the name of the file says which it is.
set -euo pipefail
folder=$(basename "${1:?usage: tables.sh benchmarks/GPU}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT

# put FILE PROGRAM... replaces the table of a file by what a program says of it, if it says it to the end.
put() {
  "${@:2}" >"$table"
  awk -v from="<!-- $1 -->" '$0 == from { inside = 1 } inside && $0 == "<!-- end -->" { found = 1 } END { exit !found }' RESULTS.md ||
    { echo "tables.sh: RESULTS.md has no place for it: a line <!-- $1 --> and below it a line <!-- end -->" >&2; exit 1; }
  awk -v from="<!-- $1 -->" -v table="$table" '$0 == from { print; while ((getline line <table) > 0) print line; inside = 1 }
    inside && $0 == "<!-- end -->" { inside = 0 } !inside { print }' RESULTS.md >"$table.page"
  mv "$table.page" RESULTS.md
}

peers=()
if [[ -s $folder/peers.json ]]; then peers=(-peers "$folder/peers.json"); fi
if [[ -s $folder/kernels.json ]]; then put "$folder/kernels.json" go run ./cuda -read "$folder/kernels.json" "${peers[@]}"; fi
if [[ -s $folder/trainings.jsonl ]]; then put "$folder/trainings.jsonl" go run ./trainings -read "$folder/trainings.jsonl"; fi
