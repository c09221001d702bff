#!/usr/bin/env bash
# The study of `tiny` on a CPU: six models, from text to a report.
#
#   benchmarks/study.sh TEXT DATA RUNS [--config.KEY=VALUE ...]
#
# TEXT: a glob of text files; DATA: a folder with glue (the layout of the
# official archives), ood (sets of other domains) and squad (the files below);
# RUNS: where to write. Start it again after a stop: it goes on where it was.
# More flags of shared_bert.study may follow, such as --plan. In front,
# MODELS="'standard','shared'" does these models alone.
set -euo pipefail

if (( $# < 3 )); then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
text=$1 data=$2 runs=$3
shift 3
# shellcheck source=benchmarks/tiny.sh
source "$(dirname "${BASH_SOURCE[0]}")/tiny.sh"

# Rows of 32 tokens leave the plateau of a bag of words soon, rows of 128 train
# the other positions: docs/results.md, "Short rows leave the plateau" and
# "Longer rows have a plateau of their own".
[[ -d $runs/corpus32 ]] || "$python" -m shared_bert.prepare --input="$text" \
  --output="$runs/corpus32" --vocab_size=8000 --seq_len=32
[[ -d $runs/corpus128 ]] || "$python" -m shared_bert.prepare --input="$text" \
  --output="$runs/corpus128" --vocab="$runs/corpus32" --seq_len=128

# Of SQuAD 2.0 no training set is at hand: articles of its dev set are one.
[[ -f $runs/dev-v2.0.json ]] || "$python" - "$data" "$runs" <<'EOF'
import json, pathlib, random, sys
data, runs = map(pathlib.Path, sys.argv[1:])
whole = json.loads((data / 'squad' / 'cs224n_dev-v2.0.json').read_text())
articles = whole['data']
random.Random(0).shuffle(articles)
count = 0
for number, article in enumerate(articles):
  count += sum(len(p['qas']) for p in article['paragraphs'])
  if count >= 1500:
    break
parts = {'train': articles[number + 1:], 'dev': articles[:number + 1]}
for name, part in parts.items():
  text = json.dumps({'version': whole['version'], 'data': part})
  (runs / f'{name}-v2.0.json').write_text(text)
EOF

all="'standard','shared','symmetric','pairwise','tied','narrow'"
exec "$python" -m shared_bert.study --config=configs/study.py:size=tiny \
  --workdir="$runs/study" \
  --config.models="(${MODELS:-$all})" \
  --config.tasks="('cola','sst2','mrpc','qnli','squad1','squad2')" \
  --config.max_updates=1500 --config.workers=2 --config.keep_checkpoints=False \
  --config.pretrain.data.corpus="$runs/corpus32,$runs/corpus128" \
  --config.pretrain.data.seq_len=128 --config.pretrain.train.steps=9000 \
  --config.pretrain.train.stage_shares="(0.6,0.4)" \
  --config.pretrain.train.stage_batch_sizes="(64,16)" \
  "${pretraining[@]}" --config.pretrain.train.warmup_steps=180 \
  --config.finetune.data.source=local \
  --config.finetune.data.glue_dir="$data/glue" \
  --config.finetune.train.epochs=4.0 --config.finetune.train.learning_rate=1e-3 \
  --config.finetune.train.eval_every=500 \
  --config.robustness.outside.dir="$data/ood" \
  --config.robustness.noise.levels="(0.0,0.1,0.2,0.4)" \
  --config.squad1.data.train_file="$data/squad/train-v1.1.part44articles.json" \
  --config.squad1.data.dev_file="$data/squad/dev-v1.1.json" \
  --config.squad1.data.train_questions=6000 \
  --config.squad1.data.dev_questions=1000 \
  --config.squad1.data.seq_len=128 --config.squad1.train.eval_every=500 \
  --config.squad1.data.length_buckets="(128,)" --config.squad1.train.steps=500 \
  --config.squad2.data.train_file="$runs/train-v2.0.json" \
  --config.squad2.data.dev_file="$runs/dev-v2.0.json" \
  --config.squad2.data.dev_questions=1000 \
  --config.squad2.data.seq_len=128 --config.squad2.train.eval_every=500 \
  --config.squad2.data.length_buckets="(128,)" --config.squad2.train.steps=500 \
  "$@"
