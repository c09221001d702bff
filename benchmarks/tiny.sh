# shellcheck shell=bash disable=SC2034
# Sourced by study.sh and variants.sh: how both pre-train `tiny` on a CPU.
python=${PYTHON:-.venv/bin/python}
# docs/results.md, "What helps on a CPU".
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# docs/results.md, "Short rows leave the plateau".
pretraining=(
  --config.pretrain.model.hidden_dropout=0.0
  --config.pretrain.model.attention_dropout=0.0
  --config.pretrain.train.optimizer=muon
  --config.pretrain.train.learning_rate=3e-3
  --config.pretrain.train.schedule=wsd
  --config.pretrain.train.log_every=100
  --config.pretrain.train.eval_every=500
)
