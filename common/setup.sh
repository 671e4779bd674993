#!/usr/bin/env bash
# Installs what the build needs: only what is missing, and says what it does.
set -euo pipefail

usage() {
  cat <<'END'
usage: common/setup.sh [--author] [--help]
Looks for what the build needs and installs what is missing, as root or
through sudo. Knows Debian and its relatives (apt-get). Elsewhere it prints
the list of what is missing.

  --author  also what the author's checks need: clang, its sanitizer runtime,
            clang-format, clang-tidy, strace, git, and to build and run
            programs for AArch64: its GCC, qemu-user
  --help    print this and exit

Exit status: 0 everything is there; 1 something is still missing after the
installation; 2 wrong usage; 3 something is missing and cannot be installed
from here.
END
}

author=no
for argument in "$@"; do
  case $argument in
    --author) author=yes ;;
    --help)
      usage
      exit 0
      ;;
    *)
      echo "setup.sh: unknown argument '$argument'" >&2
      usage >&2
      exit 2
      ;;
  esac
done

# For its own test: another file in the place of /etc/os-release.
os_release=${SETUP_OS_RELEASE:-/etc/os-release}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

has() { command -v "$1" >/dev/null; }

# builds COMPILER FLAG...: a program from standard input. Linked too, because a
# compiler may be there without its libraries.
builds() {
  cat >"$scratch/probe.cpp"
  has "$1" && "$@" "$scratch/probe.cpp" -o "$scratch/probe" &>/dev/null
}

# CMake takes the compiler from CXX, else the first of these that it finds.
find_compiler() {
  local name
  for name in ${CXX:-c++ g++ clang++}; do
    if has "$name"; then
      echo "$name"
      return
    fi
  done
}

builds_cxx20() {
  builds "$1" -std=c++20 <<'END'
#include <sys/socket.h>
#include <compare>
#include <span>
#if __clang_major__ < 14 && __GNUC__ < 12
#error too old
#endif
int main() { return ::socket(0, 0, 0) < 0 ? 0 : 1; }
END
}

has_compiler() {
  local compiler
  compiler=$(find_compiler)
  [[ -n $compiler ]] && builds_cxx20 "$compiler"
}

has_cmake() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p') ||
    return 1
  [[ -n $version ]] &&
    printf '3.25\n%s\n' "$version" | sort --check=quiet --version-sort
}

has_ninja() { has ninja || has ninja-build; }

has_doctest() {
  local compiler
  compiler=$(find_compiler)
  [[ -n $compiler ]] && builds "$compiler" -c <<'END'
#include <doctest/doctest.h>
#if DOCTEST_VERSION < 20409
#error too old
#endif
END
}

has_sanitizers() {
  builds clang++ -fsanitize=address <<<'int main() {}'
}

missing=()
packages=()

# need "WHAT" PACKAGE CHECK...
need() {
  local what=$1 package=$2
  shift 2
  if "$@"; then
    echo "found    $what"
  else
    echo "missing  $what"
    missing+=("$what")
    packages+=("$package")
  fi
}

look() {
  missing=()
  packages=()
  need "a C++20 compiler: GCC 12 or Clang 14, or newer" g++ has_compiler
  need "CMake 3.25 or newer" cmake has_cmake
  need "Ninja" ninja-build has_ninja
  need "doctest 2.4.9 or newer" doctest-dev has_doctest
  [[ $author == yes ]] || return 0
  need "Clang" clang has clang++
  need "the sanitizer runtime of Clang" libclang-rt-dev has_sanitizers
  need "clang-format" clang-format has clang-format
  need "clang-tidy" clang-tidy has clang-tidy
  need "strace" strace has strace
  need "git" git has git
  need "GCC 12 for AArch64, or newer" g++-aarch64-linux-gnu \
    builds_cxx20 aarch64-linux-gnu-g++
  need "QEMU for programs of AArch64" qemu-user has qemu-aarch64
}

knows_this_system() {
  [[ -r $os_release ]] &&
    grep -Eq '^ID(_LIKE)?="?([a-z]+ )*(debian|ubuntu)' "$os_release" &&
    has apt-get
}

# The build fetches doctest itself where it is not installed.
give_up() {
  if [[ ${#missing[@]} -eq 1 && ${missing[0]} == doctest* ]]; then
    echo "$1 The build downloads doctest instead."
    exit 0
  fi
  echo "$1 Please install what is missing." >&2
  exit 3
}

look
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "Nothing to install."
  exit 0
fi
knows_this_system || give_up "setup.sh does not know this system."

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  has sudo || give_up "setup.sh is not root, and there is no sudo."
  as_root=(sudo)
fi

run() {
  echo "+ $*"
  "$@"
}
run "${as_root[@]}" apt-get update
run "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install --yes --no-install-recommends "${packages[@]}"

echo
look
if [[ ${#missing[@]} -gt 0 ]]; then
  echo "setup.sh: the packages of this system are too old for the above." >&2
  exit 1
fi
