#!/usr/bin/env bash
# Decide how thoroughly HEAD has to be tested, as outputs for GitHub Actions: with the quick tests on the Space's Python,
# where nothing has changed but what users edit, else with everything on every Python.
#
#   .github/what-to-test.sh BASE
#
# BASE is a commit that has passed: the last one of main, or the one that a pull request starts from. Not the commit
# before the push: if that one failed, or its run was replaced by a newer one, its changes have not been tested yet.
set -euo pipefail

MINE='app\.py|\.env\.example|README\.md|tests/test_[^/]*\.py' # as in the README's "Make it yours"
BRING_BACK='^Bring back [0-9]+ commits? from the Space|^Merge .*space-edits'

everything() {
  printf 'Everything is tested: %s\n' "$1" >&2
  printf '%s\n' 'tests=everything' 'marks=' 'pythons=["3.10", "3.11", "3.12", "3.13"]'
  exit 0
}

base=${1:-}
[[ -n $base ]] || everything "no commit is known that has passed."
git cat-file -e "$base^{commit}" 2>/dev/null || everything "the commit that has passed is not here."
git merge-base --is-ancestor "$base" HEAD || everything "this does not build on the commit that has passed."
# Not `grep -q`: it stops at the first match, and `pipefail` takes the signal that then ends `git log` for a failure.
if [[ ${GITHUB_HEAD_REF:-} == space-edits ]] || git log --format=%s "$base..HEAD" | grep -E "$BRING_BACK" >/dev/null; then
  everything "this brings back what was edited on the Space."
fi

changed=$(git diff --name-only --no-renames "$base" HEAD)
others=$(grep -vxE "$MINE" <<<"$changed" || true)
[[ -z $others ]] || everything "$(head -n 1 <<<"$others") has changed."
if git diff --unified=0 "$base" HEAD -- README.md | grep -E '^[+-](sdk|sdk_version|python_version|app_file):' >/dev/null; then
  everything "README.md names another Gradio, Python or app."
fi

printf 'The quick tests are enough: only what users edit has changed.\n' >&2
python=$(sed -n '2,/^---$/s/^python_version: *//p' README.md | tr -d "\"' ")
printf '%s\n' 'tests=quick' 'marks=not long' "pythons=[\"${python:-3.10}\"]"
