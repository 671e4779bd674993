#!/usr/bin/env bash
# Every C++ file is as clang-format would write it.
# Usage: clang_format.sh REPOSITORY
set -euo pipefail
cd "$1"
mapfile -d '' -t sources < <(
  find chapters common exercises solutions -name '*.[ch]pp' -print0
)
if [[ ${#sources[@]} -eq 0 ]]; then
  echo "clang_format.sh: no sources in $1" >&2
  exit 1
fi
echo "${#sources[@]} files"
clang-format --dry-run -Werror "${sources[@]}"
