#!/usr/bin/env bash
# Open one pull request on GitHub with the commits that the Space has and this repository lacks, or update it.
#
#   SPACE_ID           username/space
#   HF_TOKEN           only for a private Space: a token that may read it
#   HF_ENDPOINT        the Hub, by default https://huggingface.co
#   GH_TOKEN           may write contents and pull requests here
#   GITHUB_SERVER_URL, GITHUB_REPOSITORY  where "here" is; GitHub Actions sets them
set -euo pipefail
# shellcheck source=.github/space.sh
. "$(dirname "$0")/space.sh"

BRANCH="space-edits"
HF_TOKEN="${HF_TOKEN:-}"
here="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"

git_with HF_TOKEN fetch --quiet --no-tags "$space" main
edits=$(git rev-parse FETCH_HEAD)
if git merge-base --is-ancestor "$edits" HEAD; then
  say "The Space $SPACE_ID has nothing that is not here."
  exit 0
fi
if ! git merge-base "$edits" HEAD >/dev/null; then
  say "The Space $SPACE_ID has a history of its own: there is nothing to bring back until it was synced once."
  exit 0
fi

count=$(git rev-list --count "HEAD..$edits")
title="Bring back $count commit$([[ $count == 1 ]] || echo s) from the Space"
body=$(mktemp)
trap 'rm -f "$body"' EXIT
{
  echo "These commits were made in the browser editor of [$SPACE_ID]($space). Until they are here, the sync refuses to"
  echo "push to the Space."
  echo
  git log --format='    %h %an: %s' --max-count=50 "HEAD..$edits" # four spaces: code, where nothing is a link or a name
  echo
  echo "Use **Create a merge commit**. After a squash or a rebase they are other commits, and still missing here."
} >"$body"

git_with GH_TOKEN push --quiet --force "$here" "$edits:refs/heads/$BRANCH"
number=$(gh pr list --repo "$GITHUB_REPOSITORY" --head "$BRANCH" --base main --state open --json number --jq '.[0].number')
if [[ -n $number ]]; then
  gh pr edit "$number" --repo "$GITHUB_REPOSITORY" --title "$title" --body-file "$body"
else
  gh pr create --repo "$GITHUB_REPOSITORY" --head "$BRANCH" --base main --title "$title" --body-file "$body"
fi
