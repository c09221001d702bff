"""Hugging Face's BERT on the same device: a section of `gpu.py`."""

import gc
import os
import pathlib
import tempfile
from typing import Any

import contest
import jax
import peer_models
import torch
from finished_runs import tokenizer_of
from gpu_report import Report, Scale, agreed, timed, tried
from gpu_steps import Case


def peers(
  scale: Scale, report: Report, cases: list[Case], compiled: bool
) -> None:
  """Training steps of full rows, ours with XLA's attention, in turns.

  Args:
    scale: of all.
    report: gets real tokens a second, and how many times faster ours are.
    cases: of which sizes and lengths count.
    compiled: whether those of torch.compile take part.
  """
  for case in cases:
    tokens = scale.tokens // case.length * case.length
    errors: dict[str, str] = {}
    # Where torch.compile fails, the others take part all the same.
    for compiling in (True, False) if compiled else (False,):
      if not report.begin(f'peers of {case}'):
        break
      found = tried(
        lambda case=case, compiling=compiling: _compared(
          scale, case, compiling
        ),
        'torch.compile' if compiling else 'peers',
        errors,
      )
      gc.collect()
      if torch.cuda.is_available():
        torch.cuda.empty_cache()
      if found is not None:
        rates = {
          name: {'tokens': tokens / clock['wall']['median']}
          for name, clock in found['seconds'].items()
        }
        report.add(
          'peers', str(case), found | {'rates': rates} | {'errors': errors}
        )
        break
    else:
      report.add(
        'peers',
        str(case),
        timed({}, 0, 0) | {'parity': [], 'rates': {}, 'errors': errors},
      )


def _compared(scale: Scale, case: Case, compiled: bool) -> dict[str, Any]:
  on_gpu = jax.default_backend() == 'gpu'
  if on_gpu and not torch.cuda.is_available():
    raise RuntimeError('PyTorch sees no GPU, and JAX does.')
  with tempfile.TemporaryDirectory() as folder:
    models = peer_models.Models(
      case.size,
      tokenizer_of(scale.vocab_size),
      # All cores of a machine with a GPU, which are few steps' business; on a
      # CPU as many as the process may use.
      len(os.sched_getaffinity(0)),
      pathlib.Path(folder),
      dtype=scale.dtype,
      device='cuda' if on_gpu else 'cpu',
      compile_mode='max-autotune',
    )
    contestants, rows = models.enter(
      contest.Case('train', scale.tokens // case.length, case.length),
      compiled=compiled,
      flax_python=None,
    )
  parity: list[dict[str, Any]] = []
  for row in rows:
    name = row['of'].removeprefix('standard and ')
    held = agreed(parity, row['of'], row['difference'], scale.loss_tolerance)
    if not held:
      # Of ours the export is what shared attention is compared with.
      contestants.pop('shared' if 'export' in name else name, None)
  told = timed(contestants, scale.rounds, scale.turn)
  return told | {'parity': parity}
