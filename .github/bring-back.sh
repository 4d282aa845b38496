#!/usr/bin/env bash
# Open a pull request on GitHub with the commits that only the Space has, or update the open one.
#
#   SPACE_ID           username/space
#   HF_TOKEN           only for a private Space: a token that may read it
#   HF_ENDPOINT        the Hub, by default https://huggingface.co
#   GH_TOKEN           a token that may write contents and pull requests to the GitHub repository
#   GITHUB_SERVER_URL, GITHUB_REPOSITORY  the GitHub repository; GitHub Actions sets them
set -euo pipefail
# shellcheck source=.github/space.sh
. "$(dirname "$0")/space.sh"

BRANCH="space-edits"
HF_TOKEN="${HF_TOKEN:-}"
github="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"

git_with HF_TOKEN fetch --quiet --no-tags "$space" main
edits=$(git rev-parse FETCH_HEAD)
if git merge-base --is-ancestor "$edits" HEAD; then
  say "GitHub has every commit of the Space $SPACE_ID."
  exit 0
fi
if ! git merge-base "$edits" HEAD >/dev/null; then
  say "The Space $SPACE_ID shares no commit with this repository. Sync to it once first."
  exit 0
fi

git_with GH_TOKEN push --quiet --force "$github" "$edits:refs/heads/$BRANCH" ||
  fail "GitHub refused the Space's commits, for the reason above. It refuses a binary file that was added on the Space," \
    "because the file's Git LFS object is missing on GitHub. It also refuses a workflow that an Action changes." \
    "Push such commits from your machine, with Git LFS installed, and run \"Bring back\" again:" "" \
    "  git clone $space space && cd space" \
    "  git lfs fetch --all && git lfs push --all $github" \
    "  git push $github HEAD:refs/heads/$BRANCH"

count=$(git rev-list --count "HEAD..$edits")
title="Bring back $count commit$([[ $count == 1 ]] || echo s) from the Space"
body=$(mktemp)
trap 'rm -f "$body"' EXIT
cat >"$body" <<TEXT
These commits were made in the browser editor of [$SPACE_ID]($space). The sync to the Space waits until they are merged.

$(list_commits "HEAD..$edits")

Use **Create a merge commit**. A squash or a rebase makes other commits, and these would still be missing.
GitHub starts no checks for a pull request that an Action opened: close and reopen it to start them.
TEXT
number=$(gh pr list --repo "$GITHUB_REPOSITORY" --head "$BRANCH" --base main --state open --json number --jq '.[0].number')
if [[ -n $number ]]; then
  gh pr edit "$number" --repo "$GITHUB_REPOSITORY" --title "$title" --body-file "$body"
else
  gh pr create --repo "$GITHUB_REPOSITORY" --head "$BRANCH" --base main --title "$title" --body-file "$body"
fi
