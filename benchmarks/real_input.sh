#!/usr/bin/env bash
# The runs behind docs/results.md: tiny, shared and standard, pre-trained on
# text and fine-tuned on four GLUE tasks with three seeds.
#
#   benchmarks/real_input.sh TEXT GLUE RUNS
#
# TEXT: a text file or glob; GLUE: a folder of the official files; RUNS: where
# to write. Two runs at a time, one core each. Start it again after a stop: it
# goes on where it was.
set -euo pipefail

if (( $# != 3 )); then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
text=$1 glue=$2 runs=$3
python=${PYTHON:-.venv/bin/python}
# Runs that differ only in their seed compile once.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/cache}

# docs/results.md, "What helps on a CPU".
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

"$python" -m shared_bert.prepare --input="$text" --output="$runs/corpus" \
  --vocab_size=8000 --seq_len=128

pretrain() {  # ATTENTION CORE
  taskset -c "$2" "$python" -m shared_bert.main \
    --config="configs/pretrain.py:size=tiny,attention=$1" \
    --workdir="$runs/tiny-$1" --config.data.corpus="$runs/corpus" \
    --config.train.steps=3000 --config.train.batch_size=32 \
    --config.train.warmup_steps=300 --config.train.log_every=50 \
    --config.train.eval_every=500 --config.train.checkpoint_every=250 \
    --config.data.heldout_rows=1024
}

finetune() {  # ATTENTION CORE
  local task epochs seed
  while read -r task epochs; do
    for seed in 0 1 2; do
      taskset -c "$2" "$python" -m shared_bert.main \
        --config="configs/$task.py:size=tiny,attention=$1" \
        --workdir="$runs/finetune/$task-$1-$seed" \
        --config.init_from="$runs/tiny-$1" \
        --config.data.source=local --config.data.glue_dir="$glue" \
        --config.train.learning_rate=3e-4 --config.train.epochs="$epochs" \
        --config.seed="$seed" --config.tensorboard=False
    done
  done <<< $'mrpc 3\ncola 3\nsst2 1\nqnli 1'
}

pretrain shared 0 &
pretrain standard 1 &
wait
finetune shared 0 &
finetune standard 1 &
wait
