#!/usr/bin/env bash
# clang-tidy over every source file of the build, one on each processor.
# Usage: clang_tidy.sh BUILD_FOLDER, which holds compile_commands.json.
set -euo pipefail

build=$1
database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT

# An exercise's test is compiled against every answer; the solution is enough.
# What CMake generates in the build folder is one #include a file. And assembly
# is not for clang-tidy.
awk -v build="$build/" '
  /^{/ { entry = ""; wanted = 1 }
  { entry = entry $0 "\n" }
  /"command":.*\/(exercise|starter|wrong|variant)-/ { wanted = 0 }
  /"file":.*\.S"/ { wanted = 0 }
  /"file":/ && index($0, "\"" build) { wanted = 0 }
  /^}/ && wanted { sub(/,\n$/, "\n", entry); kept[++n] = entry }
  END {
    print "["
    for (i = 1; i <= n; ++i) printf "%s%s", kept[i], i < n ? "," : ""
    print "]"
  }' "$build/compile_commands.json" >"$database/compile_commands.json"

sources() {
  sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' \
    "$database/compile_commands.json" | sort -u
}
is_test='(_test|/test)\.cpp$'
mapfile -t programs < <(sources | grep -Ev "$is_test")
mapfile -t tests < <(sources | grep -E "$is_test")
if [[ ${#programs[@]} -eq 0 || ${#tests[@]} -eq 0 ]]; then
  echo "clang_tidy.sh: no sources in $build/compile_commands.json" >&2
  exit 1
fi

echo "${#programs[@]} sources and ${#tests[@]} tests"
status=0
printf '%s\0' "${programs[@]}" | xargs -0 -n 1 -P "$(nproc)" \
  clang-tidy -p "$database" --quiet || status=1

# Of a test only the length of its functions: doctest's macros bring nesting
# and flow of their own. clang-format has put the closing brace of a function
# as deep as its beginning.
for test in "${tests[@]}"; do
  awk '
    /^ *$/ { next }
    { depth = match($0, /[^ ]/) }
    /^ *}$/ {
      if (counts[depth] && FNR - begun[depth] > 40) {
        print FILENAME ":" begun[depth] ": a function of more than 40 lines"
        status = 1
      }
      next
    }
    /^ *[}#\/]/ { next }
    {
      counts[depth] = !/^ *(namespace|struct|class|enum|union) /
      begun[depth] = FNR
    }
    END { exit status }' "$test" || status=1
done
exit "$status"
