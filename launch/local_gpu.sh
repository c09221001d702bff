#!/usr/bin/env bash
# Trains on the GPUs of this machine; one process drives them all.
#
#   make quickstart EXTRAS=cuda    # once: makes .venv with JAX for CUDA
#   launch/local_gpu.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
#   launch/local_gpu.sh configs/pretrain.py runs/pretrain --config.seed=1
#
# CUDA_VISIBLE_DEVICES=0,1 in front chooses the GPUs. Not tried on more than
# one GPU yet.
set -euo pipefail

if (( $# < 2 )); then
  echo 'Usage: launch/local_gpu.sh CONFIG WORKDIR [--config.KEY=VALUE ...]' >&2
  exit 1
fi
config=$1 workdir=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Named, so that a GPU that cannot be used is an error and not a slow CPU run.
export JAX_PLATFORMS=cuda,cpu
exec "$root/launch/restart.sh" \
  "$root/.venv/bin/python" -m shared_bert.main \
  --config="$config" --workdir="$workdir" "$@"
