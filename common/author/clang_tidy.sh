#!/usr/bin/env bash
# clang-tidy over every source file of the build, two at a time.
# Usage: clang_tidy.sh BUILD_FOLDER, which holds compile_commands.json.
set -euo pipefail

build=$1
# What CMake generates there is one #include a file.
mapfile -t sources < <(
  sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' "$build/compile_commands.json" |
    grep -v "^$build/" | sort -u
)
if [[ ${#sources[@]} -eq 0 ]]; then
  echo "clang_tidy.sh: no sources in $build/compile_commands.json" >&2
  exit 1
fi
echo "${#sources[@]} files"
printf '%s\0' "${sources[@]}" |
  xargs -0 -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet
