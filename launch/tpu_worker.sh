#!/usr/bin/env bash
# Trains on the TPUs of the machine that it runs on, one worker of a slice; it
# makes .venv with JAX for TPU first where that is missing. `tpu_vm.sh` calls it
# on all workers; on a slice of one machine it can be called by hand.
#
#   launch/tpu_worker.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
#   launch/tpu_worker.sh --stop       # saves, and ends it
#
# The run outlives the connection: called again, it follows the one that lives.
# It ends with the run's exit code, or with 143 if --stop ended it.
# PYTHON=python3.12 in front names the Python to use; what the run says is kept in
# run.log of the checkout.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log=$root/run.log pid_file=$root/run.pid code_file=$root/run.code
stop_file=$root/run.stopped

lives() { [[ -s $pid_file ]] && kill -0 "$(<"$pid_file")" 2>/dev/null; }

if [[ ${1:-} == --stop ]]; then
  # First, for those that follow the run and would start it again.
  touch "$stop_file"
  # The process group: restart.sh, which must not start again, and the run.
  lives && kill -TERM -- "-$(<"$pid_file")"
  while lives; do sleep 1; done
  exit 0
fi
if (( $# < 2 )); then
  echo 'Usage: launch/tpu_worker.sh CONFIG WORKDIR [--config.KEY=VALUE ...]' >&2
  exit 1
fi
config=$1 workdir=$2
shift 2

if ! lives; then
  make -C "$root" .venv/.has-tpu PYTHON="${PYTHON:-python3}" || exit 1
  # Named, so that a TPU that cannot be used is an error and not a slow CPU run.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}
  rm -f "$code_file" "$stop_file"
  : >"$log"
  # In a session of its own: no hang-up reaches it, and a signal to its group
  # leaves the one that writes the exit code.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; file=$1; shift; "$@"; echo $? >"$file"' _ \
    "$code_file" "$root/launch/restart.sh" \
    "$root/.venv/bin/python" -m shared_bert.main \
    --config="$config" --workdir="$workdir" "$@" \
    >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
fi
tail --lines=+1 --follow --pid="$(<"$pid_file")" "$log" || exit
[[ ! -e $stop_file ]] || exit 143
code=$(cat "$code_file" 2>/dev/null)
exit "${code:-134}"  # nothing there: it was killed
