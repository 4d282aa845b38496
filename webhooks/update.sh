#!/usr/bin/env bash
# Replace webhooks/ and its tests (tests/server/) with the template's newest version. Touch nothing else.
#
#   webhooks/update.sh [TEMPLATE]
#
# TEMPLATE is the address of a Git repository, such as https://huggingface.co/spaces/OWNER/NAME. The default is the
# Space in README.md's line `duplicated_from`, which older duplicates have. Without that line it is the remote
# "upstream", which `gh repo clone` adds to the clone of a fork.
set -euo pipefail

say() { printf '%s\n' "$@"; }

fail() {
  say "$@" >&2
  exit 1
}

find_template() {
  local space
  space=$(sed -n '2,/^---$/s/^duplicated_from: *//p' README.md 2>/dev/null || true)
  if [[ -n $space ]]; then
    say "${HF_ENDPOINT:-https://huggingface.co}/spaces/$space"
  else
    git remote get-url upstream 2>/dev/null || true
  fi
}

# List the files that differ from the most similar version of the template. The list is empty for an unchanged copy.
list_own_changes() {
  local version changed fewest=""
  while read -r version; do
    if changed=$(git diff --name-only "$version" HEAD -- "${folders[@]}") && [[ -z $changed ]]; then
      return
    fi
    if [[ -z $fewest ]] || ((${#changed} < ${#fewest})); then fewest=$changed; fi
  done < <(git rev-list "$newest" -- "${folders[@]}")
  say "$fewest"
}

version_at() { git show "$1:webhooks/__init__.py" | sed -n 's/^__version__ = "\(.*\)"$/\1/p'; }

# Print the section "Changes" of webhooks/README.md, down to the given version.
print_changes_since() {
  git show "$newest:webhooks/README.md" |
    awk -v since="### $1" '$0 == since || /^## / { on = 0 } on; /^## Changes$/ { on = 1 }'
}

# List the lines of the template's file that match a pattern and are missing in this repository's file.
list_missing_lines() {
  git show "$newest:$1" 2>/dev/null | grep -E "$2" | grep -vxFf "$1" 2>/dev/null | sed "s|^|  $1: |" || true
}

main() {
  cd "$(git rev-parse --show-toplevel)"
  local template=${1:-$(find_template)} folders=() folder part changed before missing
  [[ -n $template ]] ||
    fail "Where is the template? Name its repository: webhooks/update.sh https://huggingface.co/spaces/OWNER/NAME"
  for folder in webhooks tests/server; do # a folder that the user deleted stays deleted
    if git cat-file -e "HEAD:$folder" 2>/dev/null; then folders+=("$folder"); fi
  done
  [[ ${folders[0]:-} == webhooks ]] || fail "There is no folder webhooks/ in this repository's last commit."
  for part in dashboard catch_up.py jobs.py; do # the same for a part that can be deleted
    git cat-file -e "HEAD:webhooks/$part" 2>/dev/null || folders+=(":^webhooks/$part")
  done
  changed=$(git status --porcelain -- "${folders[@]}" ':(exclude)**/__pycache__/**')
  [[ -z $changed ]] || fail "These changes are not committed. Commit or undo them first:" "$changed"

  errors=$(mktemp)
  trap 'rm -f "$errors"' EXIT
  GIT_TERMINAL_PROMPT=0 git fetch --quiet --no-tags -- "$template" HEAD 2>"$errors" ||
    fail "The template $template cannot be fetched:" "$(<"$errors")" "Nothing was changed."
  newest=$(git rev-parse FETCH_HEAD)
  git cat-file -e "$newest:webhooks/update.sh" 2>/dev/null ||
    fail "$template has no webhooks/update.sh, so it is not a template. Nothing was changed."

  changed=$(list_own_changes)
  [[ -z $changed ]] ||
    fail "These files were edited here. The most similar version of the template has them differently:" "" \
      "$changed" "" \
      "Nothing was changed. Move your edits into files of your own. To discard the edits:" \
      "  git checkout $newest -- ${folders[*]}"
  before=$(version_at HEAD)
  if git diff --quiet HEAD "$newest" -- "${folders[@]}"; then
    say "webhooks/ has the template's newest version already, $before."
    return
  fi

  git restore --source="$newest" --staged --worktree -- "${folders[@]}"
  say "webhooks/ was version $before. Now it is version $(version_at "$newest"). The changes:"
  print_changes_since "$before"
  git diff --cached --shortstat -- "${folders[@]}"
  missing=$(
    list_missing_lines requirements.txt '==|>|~='
    list_missing_lines tests/requirements.txt '==|>|~='
    list_missing_lines README.md '^(sdk_version|python_version):'
  )
  [[ -z $missing ]] || say "" "Your own files were not touched. They lack these lines of the template's files:" "$missing"
  say "" "Run the tests, then commit: git commit --message 'Update webhooks/ to $(version_at "$newest")'"
}

main "$@"
