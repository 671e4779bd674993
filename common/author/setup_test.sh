#!/usr/bin/env bash
# setup.sh under a PATH of our own: what it finds, asks for and refuses. The
# stand-ins for apt-get, sudo and env write down how they were called.
# Usage: setup_test.sh SETUP_SCRIPT
set -euo pipefail

setup=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# pretend NAME...: a PATH with the programs setup.sh itself uses, the stand-ins,
# and of what the build needs only the programs named.
pretend() {
  rm -rf "${scratch:?}/bin"
  mkdir "$scratch/bin"
  : >"$scratch/calls"
  local name
  for name in bash cat grep mktemp rm sed sort "$@"; do
    ln -s "$(command -v "$name")" "$scratch/bin/$name"
  done
  for name in apt-get env sudo; do
    printf '#!/bin/bash\necho "%s $*" >>"%s"\n' "$name" "$scratch/calls" \
      >"$scratch/bin/$name"
  done
  printf '#!/bin/bash\necho 0\n' >"$scratch/bin/id"
  chmod +x "$scratch/bin/"{apt-get,env,sudo,id}
}

# run ARGUMENT...: status, output and errors go to variables.
run() {
  status=0
  output=$(PATH=$scratch/bin SETUP_OS_RELEASE=${release:-$scratch/debian} \
    CXX='' "$BASH" "$setup" "$@" 2>&1) || status=$?
  calls=$(<"$scratch/calls")
}

# expect WHAT GOT WANTED
expect() {
  if [[ $2 != "$3" ]]; then
    printf 'FAILED: %s: %s\n  wanted: %s\n  got:    %s\n' \
      "$case" "$1" "$3" "$2"
    failures=$((failures + 1))
  fi
}

expect_line() {
  if ! grep -Fxq -- "$1" <<<"$output"; then
    printf 'FAILED: %s: no line "%s" in\n%s\n' "$case" "$1" "$output"
    failures=$((failures + 1))
  fi
}

echo 'ID=debian' >"$scratch/debian"
echo 'ID=plan9' >"$scratch/plan9"
build=(c++ as ld cmake ninja)
extra=(clang++ clang-format clang-tidy strace git aarch64-linux-gnu-g++
  qemu-aarch64)

case='nothing is missing'
pretend "${build[@]}"
run
expect status "$status" 0
expect calls "$calls" ''
expect_line 'Nothing to install.'

case='nothing is missing for the author'
pretend "${build[@]}" "${extra[@]}"
run --author
expect status "$status" 0
expect calls "$calls" ''

case='a cross compiler that does not link is as good as none'
pretend "${build[@]}" "${extra[@]}"
rm "$scratch/bin/aarch64-linux-gnu-g++" "$scratch/bin/qemu-aarch64"
printf '#!/bin/bash\nexit 1\n' >"$scratch/bin/aarch64-linux-gnu-g++"
chmod +x "$scratch/bin/aarch64-linux-gnu-g++"
run --author
expect calls "$calls" "apt-get update
env DEBIAN_FRONTEND=noninteractive apt-get install --yes\
 --no-install-recommends g++-aarch64-linux-gnu qemu-user"

case='only what is missing is installed'
pretend c++ as ld ninja
run
expect calls "$calls" "apt-get update
env DEBIAN_FRONTEND=noninteractive apt-get install --yes\
 --no-install-recommends cmake"
expect_line 'missing  CMake 3.25 or newer'

case='an installation that does not help is an error'
expect status "$status" 1

case='an old CMake is as good as none'
pretend c++ as ld ninja
printf '#!/bin/bash\necho cmake version 3.24.4\n' >"$scratch/bin/cmake"
chmod +x "$scratch/bin/cmake"
run
expect_line 'missing  CMake 3.25 or newer'

case='not root: through sudo'
pretend c++ as ld ninja
printf '#!/bin/bash\necho 1000\n' >"$scratch/bin/id"
run
expect calls "$calls" "sudo apt-get update
sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes\
 --no-install-recommends cmake"

case='neither root nor sudo'
rm "$scratch/bin/sudo"
: >"$scratch/calls"
run
expect status "$status" 3
expect calls "$calls" ''

case='an unknown system gets the list'
pretend
release=$scratch/plan9
run --author
expect status "$status" 3
expect calls "$calls" ''
expect_line 'missing  a C++20 compiler: GCC 12 or Clang 14, or newer'
expect_line 'missing  CMake 3.25 or newer'
expect_line 'missing  Ninja'
expect_line 'missing  doctest 2.4.9 or newer'
expect_line 'missing  clang-tidy'
expect_line 'missing  GCC 12 for AArch64, or newer'
expect_line 'setup.sh does not know this system. Please install what is missing.'
release=''

case='--help'
pretend
run --help
expect status "$status" 0
expect_line 'usage: common/setup.sh [--author] [--help]'

case='an unknown argument'
run --all
expect status "$status" 2
expect_line "setup.sh: unknown argument '--all'"

exit $((failures > 0))
