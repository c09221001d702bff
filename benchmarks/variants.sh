#!/usr/bin/env bash
# What closes the gap of shared attention to standard, at 45 % of its
# query/key/value parameters or less: held-out loss of `tiny`, three seeds.
#
#   benchmarks/variants.sh CORPUS RUNS [--config.KEY=VALUE ...]
#
# CORPUS: of rows of 32 tokens, as benchmarks/study.sh prepares it; RUNS: where
# to write. Start it again after a stop: it goes on where it was. In front,
# MODELS="'standard','shared'" does these models alone.
set -euo pipefail

if (( $# < 2 )); then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
corpus=$1 runs=$2
shift 2
# shellcheck source=benchmarks/tiny.sh
source "$(dirname "${BASH_SOURCE[0]}")/tiny.sh"

low_rank='role_bias=True,residual_rank=6'
all="'standard','shared','shared:$low_rank','shared:diagonal_init=signs'"
all+=",'shared:role_bias=True','shared:diagonal_init=signs,$low_rank'"
all+=",'standard:standard_init=symmetric'"
exec "$python" -m shared_bert.study --config=configs/study.py:size=tiny \
  --workdir="$runs" --config.models="(${MODELS:-$all})" \
  --config.closer_models="()" --config.pretrain_seeds="(0,1,2)" \
  --config.tasks="()" --config.workers=2 \
  --config.pretrain.data.corpus="$corpus" --config.pretrain.data.seq_len=32 \
  "${pretraining[@]}" --config.pretrain.train.warmup_steps=120 \
  --config.pretrain.train.steps=6000 --config.pretrain.train.batch_size=64 \
  "$@"
