"""The plan of a run, on a screen or two."""

from ml_collections import ConfigDict

import shared_bert
from shared_bert import config as config_lib
from shared_bert import run_plan
from shared_bert.planning import course as course_lib
from shared_bert.planning import tables
from shared_bert.planning.course import Speed
from shared_bert.planning.memory import GB, Budget
from shared_bert.planning.subject import subject_of
from shared_bert.training.logging import say
from shared_bert.training.mesh import fsdp_of, planned_mesh


def show(
  config: ConfigDict,
  path: str,
  num_devices: int,
  memory: float | None,
  rates: list[Speed],
  meant: str,
) -> None:
  """Prints the plan.

  Args:
    config: validated, with batches that the devices share equally.
    path: of the config.
    num_devices: planned for.
    memory: GB of each, or None.
    rates: of one device.
    meant: what the rates are.

  Raises:
    UserError: for what the run would refuse, or too little memory.
  """
  subject = subject_of(config, planned_mesh(num_devices))
  fsdp = fsdp_of(
    config.mesh.fsdp, subject.model, num_devices, memory and memory * GB
  )
  mesh = planned_mesh(num_devices // fsdp, fsdp)
  # Before anything is said: the warm-up may leave nothing of the run.
  course = course_lib.course_lines(subject) if subject.course else []
  axes = ' '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  say(
    f'shared_bert {shared_bert.__version__} · plan of {config.job} · {path}\n'
    f'mesh        {axes}, parameters '
    + (f'shared by {fsdp} devices' if fsdp > 1 else 'copied to each device')
    + '\n'
    f'model       {run_plan.model_line(subject.model)}'
  )
  say('\n'.join([*subject.data, '']))
  say('\n'.join([*tables.parameter_lines(subject), '']))
  say('\n'.join([*tables.flops_lines(subject), '']))
  parts = config_lib.parts_of(subject.config)
  budget = Budget(subject, parts, mesh)
  say('\n'.join([*budget.lines(), '']))
  if memory is not None:
    budget.check(memory)
  if course:
    say('\n'.join([*course, '']))
    say('\n'.join(course_lib.hours_lines(subject, mesh.size, rates, meant)))
