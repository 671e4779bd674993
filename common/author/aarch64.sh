#!/usr/bin/env bash
# The runtime on the other architecture: built with the cross compiler, run by
# qemu's emulation of a process. Usage: aarch64.sh REPOSITORY BUILD_FOLDER
set -euo pipefail
repository=$1
build=$2

for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "aarch64.sh: no $tool; common/setup.sh --author installs it" >&2
    exit 1
  fi
done

# Static: what the cross compiler links is nowhere in this system's path.
cmake -S "$repository" -B "$build" -G Ninja -Wno-dev --log-level=WARNING \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_CXX_FLAGS=-O2 -DCMAKE_EXE_LINKER_FLAGS=-static \
  -DTUTORIAL_AUTHOR=ON
cmake --build "$build" -- -j 2 \
  07-fiber 07-fiber-test 08-scheduler-go switch-test

# Some tests die of a signal, and shall leave no files.
ulimit -c 0

failed() {
  echo "aarch64.sh: FAILED: $1" >&2
  exit 1
}

emulated() { qemu-aarch64 "$build/bin/$1" "${@:2}"; }

# check TEST [CASES-LEFT-OUT]
check() { emulated "$1" --test-case-exclude="${2:-}" || failed "$1"; }

# Left out is what the emulation cannot: start a program like itself, install
# guards (so there are 32,000 stacks at most), wait less than a millisecond.
check switch-test
check 07-fiber-test 'the program:*,its limit:*'
check 08-scheduler-go '3: 100*,87:*'

shown=$(emulated 07-fiber)
[[ $shown == 'a1 b1 c1 a2 b2 c2 a3 b3 c3 
2 3 5 7 11 13 17 19 23 29 ' ]] || failed "07-fiber shows: $shown"

status=0
said=$(emulated 07-fiber overflow 2>&1) || status=$?
[[ $status -eq 139 && $said == 'fiber 1: stack overflow at 0x'* ]] ||
  failed "07-fiber overflow: status $status, $said"
