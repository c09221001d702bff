#!/usr/bin/env bash
# Starts a command, and starts it again for as long as it leaves with 75:
# that is how `shared_bert.main` says "preempted, all is saved, start me
# again". 134, with which JAX ends a process that finds another one gone, counts
# as well, three times in a row. Any other exit code is passed on.
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

aborted=0
while true; do
  "$@"
  code=$?
  (( aborted = code == 134 ? aborted + 1 : 0 ))
  if (( stopping || (code != 75 && code != 134) || aborted > 3 )); then
    break
  fi
  echo "Preempted (exit code $code): starting again: $*" >&2
  sleep "${RESTART_SECONDS:-5}"
  (( stopping )) && break
done
exit "$code"
