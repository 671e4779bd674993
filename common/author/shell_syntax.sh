#!/usr/bin/env bash
# Every shell script can be parsed and run. Usage: shell_syntax.sh REPOSITORY
set -euo pipefail
cd "$1"
mapfile -d '' -t scripts < <(find common -name '*.sh' -print0)
scripts+=(.ci/run)
echo "${#scripts[@]} files"
for script in "${scripts[@]}"; do
  bash -n "$script"
  if [[ ! -x $script ]]; then
    echo "$script is not executable" >&2
    exit 1
  fi
done
