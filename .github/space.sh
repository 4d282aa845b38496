# What sync-space.sh and bring-back.sh share: the Space's address, and Git with a token that nobody sees.
# shellcheck shell=bash

say() { printf '%s\n' "$@" >&2; }

fail() {
  say "$@"
  exit 1
}

# The name of the variable with the token, then Git's arguments. The token reaches Git through a credential helper that
# reads the environment: it is in no argument, URL, output or configuration.
git_with() {
  local variable=$1
  shift
  export "${variable?}"
  # shellcheck disable=SC2016 # Git's own shell expands it, not this one
  GIT_TERMINAL_PROMPT=0 git -c credential.helper= \
    -c credential.helper='!f() { test "$1" != get || printf "username=hf\npassword=%s\n" "$'"$variable"'"; }; f' "$@"
}

[[ ${SPACE_ID:-} =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
  fail "SPACE_ID must be the name of a Space, such as username/my-space."

# shellcheck disable=SC2034 # for those who read this file
space="${HF_ENDPOINT:-https://huggingface.co}/spaces/$SPACE_ID"
