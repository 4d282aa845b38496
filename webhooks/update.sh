#!/usr/bin/env bash
# Bring webhooks/ and its tests (tests/server/) to the template's newest version, and touch nothing else.
#
#   webhooks/update.sh [TEMPLATE]
#
# TEMPLATE is the address of a Git repository: of a Space, https://huggingface.co/spaces/OWNER/NAME, or any other. By
# default it is the Space that README.md says it was duplicated from (`duplicated_from`, which older duplicates have),
# else the remote "upstream", which `gh repo clone` adds to the clone of a fork.
set -euo pipefail

say() { printf '%s\n' "$@"; }

fail() {
  say "$@" >&2
  exit 1
}

template_of_this_repository() {
  local space
  space=$(sed -n '2,/^---$/s/^duplicated_from: *//p' README.md 2>/dev/null || true)
  if [[ -n $space ]]; then
    say "${HF_ENDPOINT:-https://huggingface.co}/spaces/$space"
  else
    git remote get-url upstream 2>/dev/null || true
  fi
}

# The files in which what is here differs from the version of the template that it is most like; none if it is one.
own_changes() {
  local version changed fewest=""
  while read -r version; do
    if changed=$(git diff --name-only "$version" HEAD -- "${folders[@]}") && [[ -z $changed ]]; then
      return
    fi
    if [[ -z $fewest ]] || ((${#changed} < ${#fewest})); then fewest=$changed; fi
  done < <(git rev-list "$newest" -- "${folders[@]}")
  say "$fewest"
}

version() { git show "$1:webhooks/__init__.py" | sed -n 's/^__version__ = "\(.*\)"$/\1/p'; }

# What webhooks/README.md lists under "Changes", down to the version given.
changes_since() {
  git show "$newest:webhooks/README.md" |
    awk -v since="### $1" '$0 == since || (on && /^## /) { exit } on; /^## Changes$/ { on = 1 }'
}

# Lines that the template has and this repository has not, in a file of the user's.
missing_from() {
  git show "$newest:$1" 2>/dev/null | grep -E "$2" | grep -vxFf "$1" 2>/dev/null | sed "s|^|  $1: |" || true
}

main() {
  cd "$(git rev-parse --show-toplevel)"
  local template=${1:-$(template_of_this_repository)} folders=() folder changed before missing
  [[ -n $template ]] ||
    fail "Where is the template? Name its repository: webhooks/update.sh https://huggingface.co/spaces/OWNER/NAME"
  for folder in webhooks tests/server; do # a folder that was deleted on purpose stays so
    if git cat-file -e "HEAD:$folder" 2>/dev/null; then folders+=("$folder"); fi
  done
  [[ ${folders[0]:-} == webhooks ]] || fail "There is no folder webhooks/ in this repository's last commit."
  changed=$(git status --porcelain -- "${folders[@]}" ':(exclude)**/__pycache__/**')
  [[ -z $changed ]] || fail "These changes are not committed. Commit them, or undo them, first:" "$changed"

  errors=$(mktemp)
  trap 'rm -f "$errors"' EXIT
  GIT_TERMINAL_PROMPT=0 git fetch --quiet --no-tags "$template" HEAD 2>"$errors" ||
    fail "The template $template cannot be fetched:" "$(<"$errors")" "Nothing was changed."
  newest=$(git rev-parse FETCH_HEAD)
  git cat-file -e "$newest:webhooks/update.sh" 2>/dev/null || fail "$template is no template with a folder webhooks/."

  changed=$(own_changes)
  [[ -z $changed ]] ||
    fail "Somebody has changed these files, compared with the version of the template that they are most like:" "" \
      "$changed" "" \
      "Nothing was changed. Move the changes into files of your own, or give them up with" \
      "  git checkout $newest -- ${folders[*]}"
  before=$(version HEAD)
  if git diff --quiet HEAD "$newest" -- "${folders[@]}"; then
    say "webhooks/ is the template's newest version already, $before."
    return
  fi

  git restore --source="$newest" --staged --worktree -- "${folders[@]}"
  say "webhooks/ was version $before and is $(version "$newest") now. What has changed:"
  changes_since "$before"
  git diff --cached --shortstat -- "${folders[@]}"
  missing=$(
    missing_from requirements.txt '==|>|~='
    missing_from tests/requirements.txt '==|>|~='
    missing_from README.md '^(sdk_version|python_version):'
  )
  [[ -z $missing ]] || say "" "Your own files were left alone. In the template they have these lines, which yours lack:" "$missing"
  say "" "Run the tests, then commit: git commit --message 'Update webhooks/ to $(version "$newest")'"
}

main "$@"
