#!/usr/bin/env bash
# Packs what a machine with a GPU, and without Go and this tree, needs to run all tests and benchmarks:
#
#   benchmarks/gpu/pack.sh FOLDER    builds into FOLDER, which is made; copy it there and call FOLDER/run.sh
#
# Golden data is packed too, from $BYES_TESTDATA or ../shared/data where there is any. For another architecture set GOARCH.
set -euo pipefail
folder=${1:?usage: pack.sh FOLDER}
mkdir -p "$folder"
out=$(CDPATH='' cd -- "$folder" && pwd) # not in readonly, which would hide that it failed
readonly out
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CGO_ENABLED=0 GOOS=${GOOS:-linux}

readonly TESTS=(device/cuda device/cuda/cublaslt device/cuda/cudnn device/cuda/nvrtc models lora optim trainer/verify)
readonly PROGRAMS=(cmd/trainer benchmarks/cuda benchmarks/trainings benchmarks/e2e)

rm -rf "$out/tests"
mkdir -p "$out/bin"
for dir in "${TESTS[@]}"; do # each in a folder as its package's, beside its testdata
  mkdir -p "$out/tests/$dir"
  go test -c -ldflags='-s -w' -o "$out/tests/$dir/$(basename "$dir").test" "./$dir"
  if [[ -d $dir/testdata ]]; then cp -rL "$dir/testdata" "$out/tests/$dir/"; fi
done
for dir in "${PROGRAMS[@]}"; do
  name=$(basename "$dir")
  if [[ $name == cuda ]]; then name=kernels; fi
  go build -ldflags='-s -w' -o "$out/bin/$name" "./$dir"
done
readonly data=${BYES_TESTDATA:-../shared/data}
rm -rf "$out/data"
if [[ -d $data ]]; then
  cp -rL "$data" "$out/data"
  chmod -R u+w "$out/data"
else
  echo "no golden data at $data: its tests will skip"
fi
cp benchmarks/gpu/run.sh "$out/"
{ git rev-parse HEAD; git status --porcelain; } >"$out/version"
du -sh "$out"
