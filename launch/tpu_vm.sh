#!/usr/bin/env bash
# Trains on the TPUs of the machine that it runs on: a Cloud TPU VM. It makes
# .venv with JAX for TPU first where that is missing.
#
#   launch/tpu_vm.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
#   launch/tpu_vm.sh configs/pretrain.py runs/pretrain --config.seed=1
#
# Run it inside tmux, so that it outlives the connection; PYTHON=python3.12 in
# front names the Python to use. Not tried on TPU hardware yet.
set -euo pipefail

if (( $# < 2 )); then
  echo 'Usage: launch/tpu_vm.sh CONFIG WORKDIR [--config.KEY=VALUE ...]' >&2
  exit 1
fi
config=$1 workdir=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

make -C "$root" .venv/.has-tpu PYTHON="${PYTHON:-python3}"
# Named, so that a TPU that cannot be used is an error and not a slow CPU run.
export JAX_PLATFORMS=tpu,cpu
exec "$root/launch/restart.sh" \
  "$root/.venv/bin/python" -m shared_bert.main \
  --config="$config" --workdir="$workdir" "$@"
