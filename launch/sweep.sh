#!/usr/bin/env bash
# Fine-tunes tasks times seeds, a run each, one after another or side by side.
#
#   launch/sweep.sh CONFIG WORKDIR --tasks="cola mrpc" --seeds="0 1 2" \
#     [--jobs=N] [--config.KEY=VALUE ...]
#
# Runs lie in WORKDIR/TASK/seed-N, with what they say in WORKDIR/TASK-N.log; the
# same command goes on where it was stopped (Ctrl-C, kill), and leaves finished
# runs alone. With --jobs=N, N of them run at once, each on a GPU of its own, of
# those in CUDA_VISIBLE_DEVICES or all; with fewer GPUs than jobs they share them
# and their memory. PYTHON=... in front names a Python other than .venv's. It ends
# with 1 if a run failed, with 75 if it was stopped.
set -uo pipefail

tasks='' seeds=0 jobs=1 flags=()
usage() {
  echo 'Usage: launch/sweep.sh CONFIG WORKDIR --tasks="TASK ..."' \
    '[--seeds="N ..."] [--jobs=N] [--config.KEY=VALUE ...]' >&2
  exit 1
}
(( $# >= 2 )) || usage
config=$1 workdir=$2
shift 2
for flag in "$@"; do
  case $flag in
    --tasks=*) tasks=${flag#*=} ;;
    --seeds=*) seeds=${flag#*=} ;;
    --jobs=*) jobs=${flag#*=} ;;
    *) flags+=("$flag") ;;
  esac
done
[[ -n $tasks && $jobs =~ ^[1-9][0-9]*$ ]] || usage
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
mkdir -p "$workdir" || exit 1

free=()  # GPUs, one by one as often as runs may have them
share_gpus() {
  local found gpu round rounds
  found=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index \
    --format=csv,noheader 2>/dev/null)}
  read -ra found <<<"${found//[,$'\n']/ }"
  (( jobs > 1 && ${#found[@]} )) || return 0
  (( rounds = (jobs + ${#found[@]} - 1) / ${#found[@]} ))
  for (( round = 0; round < rounds; round++ )); do
    for gpu in "${found[@]}"; do free+=("$gpu"); done
  done
  # JAX takes three quarters of a GPU by itself, and no two names of its share.
  if (( rounds > 1 )) && [[ -z ${XLA_CLIENT_MEM_FRACTION-} ]]; then
    : "${XLA_PYTHON_CLIENT_MEM_FRACTION:=$(printf '0.%03d' $(( 900 / rounds )))}"
    export XLA_PYTHON_CLIENT_MEM_FRACTION
  fi
}
share_gpus

stopping=0 names=()
declare -A running=() gpu_of=()  # by process: its name, its GPU
declare -A code_of=()  # by name, of runs that failed
# A run that is stopped saves first.
stop() {
  stopping=1
  kill -TERM "${!running[@]}" 2>/dev/null
}
trap stop INT TERM

settle() {  # waits for one run
  local code done_pid=''
  wait -n -p done_pid "${!running[@]}"
  code=$?
  [[ -n ${done_pid:-} ]] || return 0  # a signal
  if (( code )); then
    code_of[${running[$done_pid]}]=$code
  fi
  [[ -n ${gpu_of[$done_pid]} ]] && free+=("${gpu_of[$done_pid]}")
  unset "running[$done_pid]" "gpu_of[$done_pid]"
}

for task in $tasks; do
  for seed in $seeds; do
    while (( ${#running[@]} >= jobs )); do settle; done
    (( stopping )) && break 2
    name=$task-$seed
    names+=("$name")
    echo "sweep: $name, see $workdir/$name.log"
    gpu=${free[0]:-}
    free=("${free[@]:1}")
    [[ -n $gpu ]] && export CUDA_VISIBLE_DEVICES=$gpu
    "$python" -m shared_bert.main --config="$config" \
      --workdir="$workdir/$task/seed-$seed" --config.data.task="$task" \
      --config.seed="$seed" ${flags[@]+"${flags[@]}"} \
      >>"$workdir/$name.log" 2>&1 &
    running[$!]=$name gpu_of[$!]=$gpu
  done
done
while (( ${#running[@]} )); do settle; done

failed=()  # in the order in which they were begun
for name in ${names[@]+"${names[@]}"}; do
  [[ -n ${code_of[$name]-} ]] && failed+=("$name (${code_of[$name]})")
done
if (( ${#failed[@]} )); then
  echo "sweep: not finished (exit code): ${failed[*]}" >&2
fi
(( stopping )) && exit 75
(( ${#failed[@]} == 0 ))
