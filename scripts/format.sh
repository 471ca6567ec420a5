#!/usr/bin/env bash
# Lays out our sources: C and C++ with clang-format, .heed files with heedc. The .heed files below test/ stay as they are:
# their layout is what they test.
set -euo pipefail
cd "$(dirname "$0")/.."

# Tracked files and new ones, without what git ignores.
files() { git ls-files -z --cached --others --exclude-standard --deduplicate -- "$@"; }

files {include,lib,tools,test}/'*.'{h,c,cpp} | xargs -0 -r clang-format-22 -i

laid_out=$(mktemp)
trap 'rm -f "$laid_out"' EXIT
while IFS= read -r -d '' file; do
  build/bin/heedc --format "$file" >"$laid_out"
  cmp -s "$laid_out" "$file" || cp "$laid_out" "$file" # keeps the time of a file that does not change
done < <(files '*.heed' ':!test')
