# For sync-space.sh and bring-back.sh: the Space's address, a list of commits, and Git with a hidden token.
# shellcheck shell=bash

say() { printf '%s\n' "$@" >&2; }

fail() {
  say "$@"
  exit 1
}

# Run Git with the token in a variable: git_with VARIABLE ARGUMENT… A credential helper reads the token from the
# environment, so the token is in no argument, URL, output or configuration.
git_with() {
  local variable=$1
  shift
  export "${variable?}"
  # LC_ALL, because sync-space.sh reads Git's messages.
  # shellcheck disable=SC2016 # Git's own shell expands it, not this one
  LC_ALL=C GIT_TERMINAL_PROMPT=0 git -c credential.helper= \
    -c credential.helper='!f() { test "$1" != get || printf "username=hf\npassword=%s\n" "$'"$variable"'"; }; f' "$@"
}

# List the commits of a range, indented by four spaces: in Markdown that is a block of code. Git keeps the control
# characters in a subject or a name. A carriage return would end the block, and a terminal would obey an escape.
list_commits() {
  git log --encoding=UTF-8 --max-count=50 --format='    %h %an: %s' "$1" |
    LC_ALL=C tr -d '\000-\011\013-\037\177' | LC_ALL=C sed $'s/\xc2[\x80-\x9f]//g'
}

[[ ${SPACE_ID:-} =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
  fail "SPACE_ID must be the name of a Space, such as username/my-space."

# shellcheck disable=SC2034 # the scripts that read this file use it
space="${HF_ENDPOINT:-https://huggingface.co}/spaces/$SPACE_ID"
