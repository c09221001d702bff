#!/usr/bin/env bash
# Starts a command, and starts it again for as long as it leaves with 75:
# that is how `shared_bert.main` says "preempted, all is saved, start me
# again". Any other exit code is passed on.
#
#   launch/restart.sh COMMAND [ARGUMENT ...]
#
# A SIGTERM or Ctrl-C that reaches this script as well, as it does when a
# machine shuts down, lets the command save and then ends both. It is not
# passed on, since the command takes a second signal as "stop at once".
set -uo pipefail

if (( $# == 0 )); then
  echo 'Usage: launch/restart.sh COMMAND [ARGUMENT ...]' >&2
  exit 1
fi

stopping=0
trap 'stopping=1' INT TERM

code=75
while (( code == 75 && ! stopping )); do
  "$@"
  code=$?
  if (( code == 75 && ! stopping )); then
    echo "Preempted (exit code 75): starting again: $*" >&2
    sleep "${RESTART_SECONDS:-5}"
  fi
done
exit "$code"
