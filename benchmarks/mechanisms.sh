#!/usr/bin/env bash
# The runs behind docs/results.md, "Six mechanisms": tiny, pre-trained with each
# mechanism on the same rows in the same order, from the same seed, for the same
# number of steps.
#
#   benchmarks/mechanisms.sh CORPUS RUNS [SEED]
#
# CORPUS: what shared_bert.prepare wrote; RUNS: where to write. Two runs at a
# time, one core each. Start it again after a stop: it goes on where it was.
set -euo pipefail

if (( $# < 2 || $# > 3 )); then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
corpus=$1 runs=$2 seed=${3:-0}
python=${PYTHON:-.venv/bin/python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/cache}

# docs/results.md, "What helps on a CPU".
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

pretrain() {  # ATTENTION CORE
  taskset -c "$2" "$python" -m shared_bert.main \
    --config="configs/pretrain.py:size=tiny,attention=$1,steps=7200" \
    --workdir="$runs/$1-$seed" --config.seed="$seed" \
    --config.data.corpus="$corpus" --config.data.heldout_rows=1024 \
    --config.model.hidden_dropout=0.0 --config.model.attention_dropout=0.0 \
    --config.train.optimizer=muon --config.train.learning_rate=3e-3 \
    --config.train.batch_size=16 --config.train.schedule=wsd \
    --config.train.warmup_steps=144 --config.train.log_every=50 \
    --config.train.eval_every=300 --config.train.checkpoint_every=300
}

for pair in 'shared standard' 'symmetric pairwise' 'tied tied_kv'; do
  read -r first second <<< "$pair"
  pretrain "$first" 0 & one=$!
  pretrain "$second" 1 & two=$!
  # Each by its name: a bare `wait` forgets how they ended.
  wait "$one" && wait "$two"
done
