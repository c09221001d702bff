"""shared_bert beside Hugging Face's BERT: the same work, in turns, on a CPU.

  python benchmarks/peers.py OUTPUT.json [--size=base] [--rounds=7] [--cores=1]
    [--cases=forward,train] [--compile] [--flax_python=PATH/TO/python]
    [--batch_size=32 --glue_dir=PATH/TO/glue --vocab=PATH/TO/vocab.txt]

Needs `pip install 'shared_bert[parity]'`. Both sides get the same rows without
padding, the same weights, float32 and as many threads as cores. The cases are

  forward   classes of 1 row, and of 8 rows, of 128 tokens
  long      classes of 2 rows of 512 tokens
  train     steps of masked words on 4 rows of 128 tokens, without dropout, with
            AdamW, fused on the side of PyTorch
  finetune  the same of the classes of --batch_size pairs of MNLI's train.tsv in
            --glue_dir, read by --vocab, each in rows as it would train on them

and who takes part in them:

  Hugging Face                 of transformers on PyTorch, attention by SDPA;
                               trained, its head predicts a word for each token
  Hugging Face, gathered head  trained with the head at masked positions only,
                               as shared_bert does: the fairer comparison
  Hugging Face, compiled       with --compile: each of these by torch.compile
  FlaxBert                     with --flax_python: of transformers 4 on JAX, in
                               that Python, which needs torch and optax as well
  standard, shared             shared_bert
  shared, folded               the same function as it is used for inference

Pairs of MNLI have a third of 128 tokens. Hugging Face gets them padded to the
longest of the batch, as DataCollatorWithPadding does, and FlaxBert, which would
compile each length, to 128. Ours has them `packed`, several in a row, and
`padded` to the shortest of data.length_buckets. A step is the next batch, the
same for all. Nobody is in it by torch.compile, which compiles each length too.

First logits and losses are compared, and where they differ by more than 1e-4
nothing is timed. Standard attention is compared with Hugging Face's model of
the same weights, shared attention with the standard BERT that it is exported
as; of training, the losses of two steps, so that the optimisers count as well.

Then all take turns, one after another in every round. A turn has as many steps
as the slowest does in --turn_seconds. Printed, and written to OUTPUT.json and
OUTPUT.md, are medians over rounds of the ratios within a round, of wall and of
CPU seconds: how many times faster one is than another. Rounds that begin while
more is running than the machine has cores for are left out, unless all do.
"""

import argparse
import os
import pathlib
import tempfile
from typing import Any

import machine
from contest import cases_of, compete, markdown, summarise

TOLERANCE = 1e-4
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers')


def pin(cores: int) -> None:
  """Gives this process some cores, and all libraries as many threads.

  Before any of them is imported: XLA and OpenMP read it once. A pool with more
  threads than cores waits for its own, and is several times slower.

  Args:
    cores: how many.
  """
  if hasattr(os, 'sched_setaffinity'):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cores:
      raise SystemExit(
        f'--cores={cores}, and this process may use {len(allowed)}: take fewer.'
      )
    os.sched_setaffinity(0, allowed[:cores])
  names = (
    'NPROC',
    'OMP_NUM_THREADS',
    'MKL_NUM_THREADS',
    'OPENBLAS_NUM_THREADS',
  )
  os.environ |= dict.fromkeys(names, str(cores))
  # PyTorch is compared on the CPU, whatever else JAX would find. Of XLA's flags
  # none is needed, and simulated devices would share the threads.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ.pop('XLA_FLAGS', None)


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('--size', default='base')
  parser.add_argument('--cases', default='forward,train')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--turn_seconds', type=float, default=2.0)
  parser.add_argument('--cores', type=int, default=1)
  parser.add_argument('--seq_len', type=int, default=128)
  parser.add_argument('--vocab_size', type=int, default=30_522)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--glue_dir', type=pathlib.Path, help='finetune: of MNLI')
  parser.add_argument(
    '--vocab', type=pathlib.Path, help='finetune: a vocab.txt'
  )
  parser.add_argument('--compile', action='store_true')
  parser.add_argument('--flax_python', help='of an environment with FlaxBert')
  return parser.parse_args()


def main() -> None:
  """Compares, prints and writes."""
  given = _parse()
  cases = cases_of(given.cases.split(','), given.seq_len, given.batch_size)
  if any(case.kind == 'finetune' for case in cases):
    if given.glue_dir is None or given.vocab is None:
      raise SystemExit(
        '--cases=finetune reads real pairs: name a folder with MNLI/train.tsv '
        'in it by --glue_dir=…, and the vocab.txt of a BERT by --vocab=….'
      )
  pin(given.cores)
  # Late: they import what reads the number of threads.
  import peer_finetuning
  import peer_models
  from finished_runs import tokenizer_of

  told: dict[str, Any] = {
    name: getattr(given, name)
    for name in ('size', 'vocab_size', 'cores', 'turn_seconds')
  }
  told |= machine.facts(_PACKAGES) | {
    'load_before': os.getloadavg(),
    'cases': {},
  }
  for case in cases:
    with tempfile.TemporaryDirectory() as folder:
      place = given.cores, pathlib.Path(folder)
      if case.kind == 'finetune':
        models = peer_finetuning.FineTuning(
          given.size, given.glue_dir, given.vocab, *place
        )
      else:
        tokenizer = tokenizer_of(given.vocab_size)
        models = peer_models.Models(given.size, tokenizer, *place)
      contestants, parity = models.enter(
        case, compiled=given.compile, flax_python=given.flax_python
      )
      for row in parity:
        print(f'{case}: {row["of"]}: {row["difference"]:.1e}', flush=True)
        # Not `>`: NaN is no parity.
        if not row['difference'] <= TOLERANCE:
          raise SystemExit(
            f'{case}: {row["of"]} differ by {row["difference"]:.1e}, more than '
            f'{TOLERANCE}: they do not compute the same, so nothing is timed.'
          )
      seconds, steps, loads = compete(
        contestants, given.rounds, given.turn_seconds
      )
      models.close()
    told['cases'][str(case)] = {
      'count': case.count,
      'counted': case.counted,
      'padding': models.padding,
      'parity': parity,
      'steps': steps,
      'loads': loads,
      'rounds': seconds,
    } | summarise(seconds, loads, os.cpu_count() or 1)
  told['load_after'] = os.getloadavg()
  page = markdown(told)
  machine.finish(given.output, told, page)


if __name__ == '__main__':
  main()
