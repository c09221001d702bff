#!/usr/bin/env bash
# Trains on every host of a TPU pod slice; run it on your own machine, which
# needs `gcloud` and access to the slice.
#
#   TPU_NAME=my-pod ZONE=us-central2-b \
#     launch/tpu_pod.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
#
# The repository must lie at REMOTE_DIR (default: shared_bert, below the home
# directory) on every host, and WORKDIR on a file system that all hosts share.
# Every host runs launch/tpu_vm.sh with the same arguments; a preempted job
# leaves with 75 on all of them and all start again.
#
# Not tried on TPU hardware yet; and `shared_bert.main` does not join the
# processes of several hosts yet (`jax.distributed.initialize`), so that until
# then this serves slices of a single host only.
set -euo pipefail

if (( $# < 2 )) || [[ -z ${TPU_NAME:-} || -z ${ZONE:-} ]]; then
  echo 'Usage: TPU_NAME=... ZONE=... launch/tpu_pod.sh CONFIG WORKDIR' \
    '[--config.KEY=VALUE ...]' >&2
  exit 1
fi

# Quoted, so that the remote shells see the arguments as they were given.
printf -v arguments ' %q' "$@"
printf -v directory '%q' "${REMOTE_DIR:-shared_bert}"
exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
  --command="cd $directory && launch/tpu_vm.sh$arguments"
