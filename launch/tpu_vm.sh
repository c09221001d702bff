#!/usr/bin/env bash
# Trains on a Cloud TPU slice, on all of its workers, called from your machine:
# asks for the slice as a queued resource, copies this checkout's HEAD to it,
# trains, and asks again when the slice is preempted. Called again, it goes on
# where it was; a connection that is lost does not end the run.
#
#   launch/tpu_vm.sh NAME --zone=ZONE --type=v5litepod-16 \
#     --share=HOST:/EXPORT CONFIG WORKDIR [--config.KEY=VALUE ...]
#   launch/tpu_vm.sh NAME --zone=ZONE --stop     # saves, and gives the slice back
#
# --share   an NFS export, such as Filestore's, that is mounted at /mnt/share on
#           every worker: WORKDIR and the data lie there, since the disks of a
#           slice go with it
# --spot    cheaper, and preempted when others want it
# --runtime the image of the machines (tpu-ubuntu2204-base; v6e: v2-alpha-tpuv6e)
# --keep    leaves the slice there at the end; else it is given back
#
# It needs gcloud, logged in, with a project set. Not tried on TPU hardware.
set -uo pipefail

usage() {
  sed -n '7,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 1
}
say() { echo "tpu_vm: $*" >&2; }

name='' zone='' type='' share='' runtime=tpu-ubuntu2204-base
stop=0 keep=0 spot=() rest=()
for argument in "$@"; do
  case $argument in
    --zone=*) zone=${argument#*=} ;;
    --type=*) type=${argument#*=} ;;
    --share=*) share=${argument#*=} ;;
    --runtime=*) runtime=${argument#*=} ;;
    --spot) spot=(--spot) ;;
    --keep) keep=1 ;;
    --stop) stop=1 ;;
    *) if [[ -z $name ]]; then name=$argument; else rest+=("$argument"); fi ;;
  esac
done
[[ $name =~ ^[a-z][a-z0-9-]*$ && -n $zone ]] || usage
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
poll=${POLL_SECONDS:-30}

queue() {  # VERB [FLAG ...]
  gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"
}
# What a queued resource can be in: `gcloud compute tpus queued-resources list`.
state() {
  local all
  all=$(gcloud compute tpus queued-resources list --zone="$zone" \
    --format='value(name.basename(),state.state)') || return
  awk -v name="$name" '$1 == name { print $2 }' <<<"$all"
}
on_workers() {  # COMMAND
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$1"
}
release() {
  say "giving $name back"
  queue delete --force --quiet
}

if (( stop )); then
  case $(state) in
    '') say "there is no $name in $zone"; exit 0 ;;
    ACTIVE)
      on_workers 'cd shared_bert && launch/tpu_worker.sh --stop' ||
        say 'the run could not be told to save; its last checkpoint counts' ;;
  esac
  release
  exit
fi

[[ -n $type && -n $share && ${#rest[@]} -ge 2 ]] || usage
if [[ -n $(git -C "$root" status --porcelain --untracked-files=no) ]]; then
  say 'there are changes that are not committed; HEAD is what will run'
fi

given_back() {
  say "stopped from elsewhere, where $name is given back"
  exit 143
}

had=0  # whether the slice was there, and nobody here gave it back
ready() {  # asks for the slice where that is due, and waits for it
  local now before=''
  while true; do
    now=$(state) || return
    [[ -n $now ]] || (( ! had )) || given_back
    [[ $now == "$before" ]] || say "$name: ${now:-to be asked for}"
    before=$now
    case $now in
      ACTIVE) had=1; return 0 ;;
      '')
        queue create --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime" ${spot[@]+"${spot[@]}"} --async ||
          return ;;
      SUSPENDED)  # preempted, and it never comes back
        release || return
        had=0 ;;
      FAILED)
        say "$name could not be had:"
        queue describe >&2
        say "give it back by: $0 $name --zone=$zone --stop"
        return 1 ;;
    esac
    sleep "$poll"
  done
}

deliver() {  # the code and the share, on every worker
  local archive
  archive=$(mktemp --suffix=.tar.gz) || return
  git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
    gcloud compute tpus tpu-vm scp "$archive" "$name:shared_bert.tar.gz" \
      --zone="$zone" --worker=all &&
    on_workers "mountpoint -q /mnt/share || {
      sudo apt-get install -y -qq nfs-common && sudo mkdir -p /mnt/share &&
      sudo mount -t nfs ${share@Q} /mnt/share; } &&
      mkdir -p shared_bert && tar -xzf shared_bert.tar.gz -C shared_bert"
  local code=$?
  rm -f "$archive"
  return "$code"
}

# What the shell of a worker takes for these very words.
words=''
for word in "${rest[@]}" --distributed; do words+=" ${word@Q}"; done

failures=0  # in a row, of a slice that is there
while true; do
  ready || exit 1
  # Where it lives everywhere, it is only followed.
  if ! on_workers 'pgrep -F shared_bert/run.pid' >/dev/null 2>&1; then
    deliver
  fi && on_workers "cd shared_bert && launch/tpu_worker.sh$words"
  code=$?
  case $code in
    0) break ;;
    143) given_back ;;
    1|2|130)
      # Not the slice's fault, unless it is going just now.
      if [[ $(state) == ACTIVE ]]; then
        say "the run ended with $code; the slice is kept: mend it and call this" \
          "again, or give it back by: $0 $name --zone=$zone --stop"
        exit "$code"
      fi ;;
  esac
  if [[ $(state) == ACTIVE ]]; then (( failures += 1 )); else failures=0; fi
  if (( failures > 5 )); then
    say "$failures failures in a row; the last ended with $code"
    exit "$code"
  fi
  say "ended with $code: going on"
  sleep "$poll"
done
(( keep )) || release
