#!/usr/bin/env bash
# Push HEAD to the main branch of a Space. Never overwrite a commit that was made there.
#
#   SPACE_ID     username/space
#   HF_TOKEN     a token that may write to the Space
#   HF_ENDPOINT  the Hub, by default https://huggingface.co
#   SYNC_FORCE   true: replace commits that only the Space has
set -euo pipefail
# shellcheck source=.github/space.sh
. "$(dirname "$0")/space.sh"

[[ -n ${HF_TOKEN:-} ]] || fail "HF_TOKEN must be a token that may write to the Space $SPACE_ID."
[[ $(git rev-parse --is-shallow-repository) == false ]] ||
  fail "This clone lacks the history. Fetch it: git fetch --unshallow, or fetch-depth: 0 in Actions."

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if ! theirs=$(git_with HF_TOKEN ls-remote "$space" refs/heads/main 2>"$errors"); then
  case $(<"$errors") in
    *"not found"*)
      fail "There is no Space $SPACE_ID that this token can see. Duplicate this project's Space, or create one at" \
        "${HF_ENDPOINT:-https://huggingface.co}/new-space (with the Gradio SDK), and run this again."
      ;;
    *"Authentication failed"* | *"returned error: 401"* | *"returned error: 403"*)
      fail "The Hub refuses this HF_TOKEN for the Space $SPACE_ID. The token needs the permission to write to it."
      ;;
    *) fail "The Hub cannot be reached:" "$(<"$errors")" "Nothing was changed. Run this again later." ;;
  esac
fi
head=$(git rev-parse HEAD)
if [[ ${theirs%%[[:space:]]*} == "$head" ]]; then
  say "The Space $SPACE_ID has this commit already."
  exit 0
fi

lease=()
if [[ -n $theirs ]]; then # else the Space has no commit yet
  git_with HF_TOKEN fetch --quiet --no-tags "$space" refs/heads/main ||
    fail "The Space's commits could not be fetched, for the reason above. Nothing was changed."
  theirs=$(git rev-parse FETCH_HEAD)
  if ! git merge-base --is-ancestor "$theirs" "$head"; then
    if [[ ${SYNC_FORCE:-} != true ]]; then
      edits=$(list_commits "$head..$theirs")
      force="run this with SYNC_FORCE=true (on GitHub, run the workflow \"CI\" by hand with \"force\")."
      git merge-base "$theirs" "$head" >/dev/null ||
        fail "The Space $SPACE_ID shares no commit with this repository. It has:" "" "$edits" "" \
          "Nothing was changed. A new or duplicated Space begins with a commit of its own. To replace it once, $force"
      fail "The Space $SPACE_ID has commits that this repository lacks. They were made in its browser editor:" "" \
        "$edits" "" "Nothing was changed. Bring them here first:" "" \
        "  git fetch $space main" "  git merge FETCH_HEAD" "" \
        "(on GitHub, the workflow \"Bring back\" opens a pull request with them). To discard them, $force"
    fi
    say "Replacing the commits that only the Space $SPACE_ID has, up to $theirs."
    lease=("--force-with-lease=refs/heads/main:$theirs") # refuses if the Space has a newer commit by now
  fi
fi

git_with HF_TOKEN push --quiet ${lease[@]+"${lease[@]}"} "$space" "$head:refs/heads/main" ||
  fail "The push to the Space $SPACE_ID failed, for the reason above."
say "The Space $SPACE_ID has $(git rev-parse --short HEAD) now."
