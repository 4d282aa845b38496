#!/usr/bin/env bash
# Push HEAD to the main branch of a Space, and never over a commit that was made there.
#
#   SPACE_ID     username/space
#   HF_TOKEN     a token that may write to it
#   HF_ENDPOINT  the Hub, by default https://huggingface.co
#   SYNC_FORCE   true: replace what the Space has and this repository lacks
set -euo pipefail
# shellcheck source=.github/space.sh
. "$(dirname "$0")/space.sh"

[[ -n ${HF_TOKEN:-} ]] || fail "HF_TOKEN must be a token that may write to the Space $SPACE_ID."
[[ $(git rev-parse --is-shallow-repository) == false ]] ||
  fail "This clone has no history to compare. Fetch all of it: git fetch --unshallow, or fetch-depth: 0 in Actions."

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if ! seen=$(git_with HF_TOKEN ls-remote "$space" refs/heads/main 2>"$errors"); then
  case $(<"$errors") in
    *"not found"*)
      fail "There is no Space $SPACE_ID that this token can see. Duplicate this project's Space, or create one at" \
        "${HF_ENDPOINT:-https://huggingface.co}/new-space (with the Gradio SDK), and run this again."
      ;;
    *"Authentication failed"* | *"403"* | *"401"*)
      fail "The Hub does not take this HF_TOKEN for the Space $SPACE_ID. It needs the permission to write to it."
      ;;
    *) fail "The Hub cannot be reached:" "$(<"$errors")" "Nothing was changed. Run this again later." ;;
  esac
fi
seen=${seen%%[[:space:]]*}
head=$(git rev-parse HEAD)

if [[ $seen == "$head" ]]; then
  say "The Space $SPACE_ID has this commit already."
  exit 0
fi

lease=()
if [[ -n $seen ]]; then
  git_with HF_TOKEN fetch --quiet --no-tags "$space" refs/heads/main || fail "The Hub did not give the Space's commits."
  seen=$(git rev-parse FETCH_HEAD)
  if ! git merge-base --is-ancestor "$seen" "$head"; then
    if [[ ${SYNC_FORCE:-} != true ]]; then
      edits=$(git log --format='  %h %an: %s' --max-count=20 "$head..$seen")
      force="run this with SYNC_FORCE=true (on GitHub, run the workflow \"CI\" by hand with \"force\")."
      git merge-base "$seen" "$head" >/dev/null ||
        fail "The Space $SPACE_ID has a history of its own, with nothing in common with this repository's:" "" "$edits" "" \
          "Nothing was changed. A Space that was just created or duplicated has one. To replace it, once, $force"
      fail "The Space $SPACE_ID has commits that this repository lacks, made in its browser editor:" "" "$edits" "" \
        "Nothing was changed. Bring them here first:" "" "  git fetch $space main" "  git merge FETCH_HEAD" "" \
        "(on GitHub, the workflow \"Bring back\" opens a pull request with them). If they may be lost, $force"
    fi
    say "Replacing what only the Space $SPACE_ID has, up to its commit $seen."
    lease=("--force-with-lease=refs/heads/main:$seen") # only if nobody has added another one since
  fi
fi

git_with HF_TOKEN push --quiet ${lease[@]+"${lease[@]}"} "$space" "$head:refs/heads/main" ||
  fail "The Space was not changed: the Hub's reason is above."
say "The Space $SPACE_ID has $(git rev-parse --short HEAD) now."
