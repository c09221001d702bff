r"""How much of a BERT is left after a fit to shared attention, by rank.

  python benchmarks/fit.py MODEL PAIRS.tsv [--ranks=0,16,64,128]

MODEL is a folder of Hugging Face's BERT, PAIRS has two sentences in the last
two columns, as MRPC's files. The first 400 pairs are compared; the sentences
of the next 200 weight the fit. Printed are the parameters of the projections,
the share of the squares that is lost of each role, a mean over the layers, and
the agreement (Spearman) of similarities with those of the original: of the
pairs, and of 2,000 random ones of their sentences.
"""

import argparse
import dataclasses

import numpy as np
from scipy import stats

from shared_bert.data.encoding import encode_examples
from shared_bert.inference import Predictor
from shared_bert.interop import huggingface
from shared_bert.interop.fitting import fit_shared
from shared_bert.interop.moments import second_moments
from shared_bert.interop.saved import SavedModel
from shared_bert.model import parameters

_PAIRS, _OTHERS = 400, 200


def _similarities(
  saved: SavedModel, sentences: list[str], pairs: np.ndarray
) -> np.ndarray:
  answers = Predictor(saved, 'embed', pooling='mean')(sentences)
  x = np.stack([answer['embedding'] for answer in answers])
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  return np.einsum('PD,PD->P', *x[pairs])


def main() -> None:
  """The command; see the top of the file."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model')
  parser.add_argument('pairs')
  parser.add_argument('--ranks', default='0,16,64,128')
  args = parser.parse_args()
  saved = huggingface.read(args.model)
  with open(args.pairs, encoding='utf-8-sig') as file:
    lines = [line.rstrip('\n').split('\t')[-2:] for line in file][1:]
  sentences = [text for line in lines[:_PAIRS] for text in line]
  others = [text for line in lines[_PAIRS : _PAIRS + _OTHERS] for text in line]
  given = np.arange(2 * _PAIRS).reshape(_PAIRS, 2).T
  drawn = np.random.default_rng(0).integers(0, 2 * _PAIRS, (2, 2_000))
  drawn = drawn[:, drawn[0] != drawn[1]]
  rows = encode_examples(saved.tokenizer, others, None, 128)
  columns = ('input_ids', 'token_type_ids', 'segment_ids')
  moments = second_moments(
    saved.params, saved.config, {name: rows[name] for name in columns}
  )
  before = [_similarities(saved, sentences, pairs) for pairs in (given, drawn)]
  print('rank weighted parameters   query     key   value   pairs     any')
  for rank in map(int, args.ranks.split(',')):
    for weights in (None, moments):
      fit = fit_shared(
        saved.params,
        role_bias=rank > 0,
        residual_rank=rank,
        second_moments=weights,
      )
      config = dataclasses.replace(
        saved.config,
        attention='shared',
        role_bias=rank > 0,
        residual_rank=rank,
      )
      fitted = dataclasses.replace(saved, params=fit.params, config=config)
      size = parameters.count(
        fit.params['encoder']['layers']['attention']['projection']
      )
      lost = ''.join(f'{loss:8.1%}' for loss in fit.errors.mean(axis=0))
      agreement = ''
      for old, drawn_pairs in zip(before, (given, drawn), strict=True):
        found = _similarities(fitted, sentences, drawn_pairs)
        agreement += f'{stats.spearmanr(old, found).statistic:8.3f}'
      weighted = 'no' if weights is None else 'inputs'
      print(f'{rank:4} {weighted:>8} {size:10,}{lost}{agreement}', flush=True)


if __name__ == '__main__':
  main()
