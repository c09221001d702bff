"""The claims of the paper, with their sources.

The paper: Kowsher et al., Does Self-Attention Need Separate Weights in
Transformers? (arXiv 2412.00359; NAACL 2025 Industry, pp. 535-543). Its tables
were not at hand; numbers are of its abstracts, or `second_hand`, of summaries
that others wrote of it.
"""

import dataclasses

_ABSTRACT = 'abstract of the camera-ready (NAACL 2025)'
_V1 = 'abstract of v1'
_SUMMARIES = 'second-hand: summaries of the paper'


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim.

  Attributes:
    key: its name in `report.json`.
    text: what is claimed.
    paper: the paper's numbers, or none.
    source: where they were read.
    second_hand: whether that is not the paper itself.
    sizes: differences that are claimed, in points.
    sign: 1 where more is claimed, -1 where less.
    is_measured: whether it is the paper's, and not a matter of counting alone
      or another reading of a claim before.
  """

  key: str
  text: str
  paper: str
  source: str
  second_hand: bool = False
  sizes: tuple[float, ...] = ()
  sign: int = 1
  is_measured: bool = True


CLAIMS = (
  Claim(
    'qkv_parameters',
    'two thirds fewer query/key/value parameters',
    '−66.53 %',
    _SUMMARIES,
    second_hand=True,
    is_measured=False,
  ),
  Claim(
    'total_parameters',
    'BERT-base has an eighth fewer parameters',
    '−12.94 %',
    _SUMMARIES,
    second_hand=True,
    is_measured=False,
  ),
  Claim(
    'training_time',
    'training takes about one tenth less time',
    'about −10 %',
    f'{_V1}; the camera-ready gives no figure',
  ),
  Claim(
    'glue_standard',
    'better than standard on GLUE',
    '+0.38',
    f'{_V1}; dropped in the camera-ready',
    sizes=(0.38,),
  ),
  Claim(
    'glue_symmetric',
    'better than symmetric on GLUE',
    '+5.81 (v1), +3.55 (camera-ready)',
    'the two abstracts',
    sizes=(5.81, 3.55),
  ),
  Claim(
    'glue_pairwise',
    'better than pairwise on GLUE',
    '+1.06 (v1), +0.89 (camera-ready)',
    'the two abstracts',
    sizes=(1.06, 0.89),
  ),
  Claim(
    'small_tasks',
    'better than standard on small tasks (MRPC, CoLA, STS-B)',
    'no number at hand',
    f'{_V1}; which tasks is second-hand',
    second_hand=True,
  ),
  Claim(
    'noise',
    'better than standard on noisy text',
    'no number at hand',
    _ABSTRACT,
  ),
  Claim(
    'noise_change',
    'loses less than standard to noise (another reading of the same)',
    'no number at hand',
    _ABSTRACT,
    is_measured=False,
  ),
  Claim(
    'outside',
    'better than standard out of domain',
    'no number at hand',
    _ABSTRACT,
  ),
  Claim(
    'squad',
    'slightly below standard on SQuAD',
    'no number at hand',
    _SUMMARIES,
    second_hand=True,
    sign=-1,
  ),
  Claim(
    'narrow',
    'better than standard narrowed to as many parameters (a control of ours)',
    'not in what is known of the paper',
    'this project',
    is_measured=False,
  ),
)


def base_parameters(attention: str, *, vocab_size: int = 30_522) -> int:
  """`BertModel`'s parameters at base: L=12, D=768, F=3072, P=512, pooler.

  Args:
    attention: `standard` or `shared`.
    vocab_size: V.
  """
  layers, d, f = 12, 768, 3072
  projections = {'standard': 3 * (d * d + d), 'shared': d * d + d + 3 * d}
  block = projections[attention] + d * d + d + 2 * d * f + f + d + 4 * d
  return (vocab_size + 512 + 2) * d + 2 * d + layers * block + d * d + d
