"""The whole way on embedded data: several mechanisms, side by side."""

import copy
import pathlib
from typing import Any

from ml_collections import ConfigDict

from shared_bert.finetune import finetune
from shared_bert.pretrain import pretrain
from shared_bert.training import workdir as workdir_lib
from shared_bert.training.logging import say
from shared_bert.training.run import Options


@workdir_lib.alone_in_workdir
def quickstart(
  config: ConfigDict, workdir: pathlib.Path, options: Options = Options()
) -> dict[str, Any]:
  """Pre-trains and fine-tunes each mechanism, then prints them as a table.

  Args:
    config: of `quickstart_config.quickstart_defaults`, validated.
    workdir: of the runs: `shared/pretrain`, `shared/finetune` and so on.
    options: of the command.

  Returns:
    The rows of the table by mechanism, as in `results.json`.

  Raises:
    UserError: for what the user can mend.
    Preempted: after a signal, once the state is saved.
  """
  workdir_lib.claim_for_several(workdir)
  table = {}
  for attention in config.attentions:
    folder = workdir / attention
    first, second = copy.deepcopy((config.pretrain, config.finetune))
    first.model.attention = second.model.attention = attention
    second.init_from = str(folder / 'pretrain')
    say(f'── {attention} ── pre-training')
    before = pretrain(first, folder / 'pretrain', options)
    say(f'── {attention} ── fine-tuning')
    after = finetune(second, folder / 'finetune', options)
    table[attention] = {
      'parameters': after['parameters'],
      'seconds': before['seconds'] + after['seconds'],
      'dev': after['metrics']['dev']['accuracy'],
      'unseen': after['metrics']['test']['accuracy'],
      'majority': after['majority']['test'],
    }
  workdir_lib.write_json(workdir / 'results.json', table)
  if not options.dry_run:
    _show(table, workdir)
  return table


def _show(table: dict[str, Any], workdir: pathlib.Path) -> None:
  say()
  say(
    f'{"attention":12}{"parameters":>12}{"seconds":>9}{"dev":>8}'
    f'{"unseen compositions":>21}'
  )
  for attention, row in table.items():
    say(
      f'{attention:12}{row["parameters"]:>12,}{row["seconds"]:>9.1f}'
      f'{row["dev"]:>8.1%}{row["unseen"]:>21.1%}'
    )
  majority = next(iter(table.values()))['majority']
  say(f'{"majority class":12}{"":>27}{majority:>21.1%}')
  say()
  say(f'results     {workdir / "results.json"}')
  say(f'TensorBoard tensorboard --logdir {workdir}')
