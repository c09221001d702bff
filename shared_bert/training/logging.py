"""What is seen of a run: `metrics.jsonl`, TensorBoard, a line of progress."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import jax
import numpy as np

from shared_bert.errors import UserError, printable
from shared_bert.tensorflow_cpu import import_tensorflow
from shared_bert.training import hparams, processes


def say(text: str = '') -> None:
  """Prints a line at once, also into a pipe."""
  print(printable(text), flush=True)


def _summary_writer(folder: pathlib.Path) -> Any | None:
  """clu's TensorBoard writer, or None with a line where it cannot be had.

  The writer wants TensorFlow.
  """
  try:
    import_tensorflow()
    from clu.metric_writers import SummaryWriter
  except ImportError as error:
    say(
      f'TensorBoard: off, since {error.name or error} is not installed; '
      'metrics.jsonl has every number.'
    )
    return None
  return SummaryWriter(str(folder))


def _write_record(writer: Any, summary: Any) -> None:
  """Writes a summary of one value that is all metadata."""
  (value,) = summary.value
  writer.write_summaries(
    0,
    {value.tag: np.zeros(0, np.float32)},
    metadata={value.tag: value.metadata},
  )


class MetricLog:
  """Writes metrics to `metrics.jsonl` and TensorBoard.

  A resumed run first forgets what was logged after its checkpoint, so that
  the file reads as that of an undisturbed run.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    config: dict,
    *,
    resume_step: int,
    tensorboard: bool,
  ):
    """Opens the files; of several processes, the first has them.

    Args:
      workdir: of the run.
      config: plain nested dict; logged as hyper-parameters.
      resume_step: lines of later steps are dropped; at 0, all are.
      tensorboard: whether to write event files too.
    """
    self._path = workdir / 'metrics.jsonl'
    self._file, self._writer = None, None
    if not processes.is_first():
      return
    self._forget_after(resume_step)
    self._file = self._path.open('a')
    if tensorboard:
      with self._tensorboard():
        self._writer = _summary_writer(workdir)
    with self._tensorboard() as writer:
      if writer is not None:
        _write_record(writer, hparams.session_start(config))
    self.write_text(0, 'config', json.dumps(config, indent=2))

  def _forget_after(self, step: int) -> None:
    if not self._path.exists():
      return
    if not step:  # nothing was saved: it begins anew, its step 0 included
      self._path.unlink()
      return
    kept = []
    lines = self._path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
      try:
        if json.loads(line)['step'] <= step:
          kept.append(line)
      except (ValueError, TypeError, KeyError, RecursionError) as error:
        if not line.endswith(b'\n'):
          break  # the half-written last line of a killed run
        raise UserError(
          f'{self._path}, line {number} is damaged: mend it or move the file '
          'away, and run the same command again; no checkpoint was touched.'
        ) from error
    temporary = self._path.with_suffix('.tmp')
    try:
      temporary.write_bytes(b''.join(kept))
      os.replace(temporary, self._path)
    except OSError as error:
      raise self._refusal(error) from error

  @contextlib.contextmanager
  def _tensorboard(self) -> Iterator[Any | None]:
    """The writer of event files, or None; what the disk refuses it is told."""
    try:
      yield self._writer
    except Exception as error:
      # TensorFlow's own class, which is not imported for this: some are told
      # as a full queue or the end of a range.
      kinds = [kind.__name__ for kind in type(error).__mro__]
      if not isinstance(error, OSError) and 'OpError' not in kinds:
        raise
      # Without the operation that TensorFlow puts first.
      text = re.sub(r'^\{\{.*?\}\} ', '', str(error)).partition('\n')[0]
      raise UserError(
        f'the TensorBoard files in {self._path.parent} cannot be written '
        f'({text}): make room, and run the same command again; saved '
        'checkpoints are kept.'
      ) from error

  def _refusal(self, error: OSError) -> UserError:
    return UserError(
      f'{self._path} cannot be written ({error.strerror}): make room, and run '
      'the same command again.'
    )

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Logs numbers of one split at one step."""
    if self._file is None:
      return
    row = {'step': step, 'split': split, **values}
    try:
      self._file.write(json.dumps(row) + '\n')
      self._file.flush()
    except OSError as error:
      raise self._refusal(error) from error
    with self._tensorboard() as writer:
      if writer is not None:
        writer.write_scalars(
          step, {f'{split}/{name}': value for name, value in values.items()}
        )

  def write_text(self, step: int, name: str, text: str) -> None:
    """Logs a text to TensorBoard, in a fixed-width block."""
    with self._tensorboard() as writer:
      if writer is not None:
        block = '\n'.join('    ' + line for line in text.splitlines())
        writer.write_texts(step, {name: block})

  def write_pictures(
    self, step: int, pictures: dict[str, Callable[[], np.ndarray]]
  ) -> None:
    """Draws pictures, uint8 [H, W, 3], for TensorBoard; else draws none."""
    with self._tensorboard() as writer:
      if writer is not None and pictures:
        writer.write_images(
          step, {name: draw() for name, draw in pictures.items()}
        )

  def write_layers(self, step: int, values: dict[str, jax.Array]) -> None:
    """Shows TensorBoard how values are spread in each layer.

    Args:
      step: they are of.
      values: arrays [L, ...] by name; fetched for TensorBoard only.
    """
    with self._tensorboard() as writer:
      if writer is not None:
        writer.write_histograms(
          step,
          {
            f'{name}/layer_{layer:02}': of_layer
            for name, stacked in jax.device_get(values).items()
            for layer, of_layer in enumerate(stacked)
          },
        )

  def finish(self) -> None:
    """Says that the run came to its end."""
    with self._tensorboard() as writer:
      if writer is not None:
        _write_record(writer, hparams.session_end())

  def close(self) -> None:
    """Flushes and closes everything."""
    if self._file is not None:
      with contextlib.suppress(OSError):  # said where it was written
        self._file.close()
    with self._tensorboard() as writer:
      if writer is not None:
        writer.flush()
        writer.close()


def duration(seconds: float) -> str:
  """Seconds as `41 s`, `3:07` or `2:03:07`."""
  seconds = int(seconds + 0.5)
  if seconds < 60:
    return f'{seconds} s'
  minutes, seconds = divmod(seconds, 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02}:{seconds:02}'
  return f'{minutes}:{seconds:02}'


class Progress:
  """One line: step, loss, examples/s, tokens/s, percent, time left.

  In a terminal the line is written over, at most every two seconds; elsewhere
  a new one is written, at most every ten.
  """

  def __init__(
    self, name: str, total_steps: int | None, stream: TextIO | None = None
  ):
    """Writes nothing yet.

    Args:
      name: what the line starts with.
      total_steps: of the run; None where a clock ends it.
      stream: standard output unless given.
    """
    self._name = name
    self._total = total_steps
    self._stream = stream or sys.stdout
    self._terminal = self._stream.isatty()
    self._every = 2 if self._terminal else 10
    self._written = time.monotonic()
    self._values: dict[str, float] = {}
    self._open = False

  @property
  def is_due(self) -> bool:
    """Whether the line was written long enough ago."""
    return time.monotonic() - self._written >= self._every

  def show(
    self,
    step: int,
    done: float,
    seconds_left: float | None,
    values: dict[str, float] | None = None,
  ) -> None:
    """Writes the line, if it is due or there is news for a terminal.

    Args:
      step: steps done.
      done: share of the run.
      seconds_left: or None if not known.
      values: `loss`, `examples_per_second` and `tokens_per_second`; those
        shown last unless given, for they are fetched only when logged.
    """
    is_first = not self._values
    self._values = values or self._values
    is_news = values is not None and (self._terminal or is_first or done >= 1)
    if not (self.is_due or is_news):
      return
    self._written = time.monotonic()
    of = '' if self._total is None else f'/{self._total:,}'
    parts = [f'{self._name} {step:,}{of} ({done:.0%})']
    if self._values:
      parts += [
        f'loss {self._values["loss"]:.4f}',
        f'{self._values["examples_per_second"]:,.0f} examples/s',
        f'{self._values["tokens_per_second"]:,.0f} tokens/s',
      ]
    left = '?' if seconds_left is None else duration(seconds_left)
    parts.append(f'{left} left')
    if self._terminal:
      width = shutil.get_terminal_size().columns - 1
      # A narrow terminal has room for less; the time left goes last.
      while len('  '.join(parts)) > width and len(parts) > 1:
        parts.pop(max(1, len(parts) - 2))
      self._stream.write('\r' + '  '.join(parts)[:width].ljust(width))
      self._open = True
    else:
      self._stream.write('  '.join(parts) + '\n')
    self._stream.flush()

  def clear(self) -> None:
    """Ends an overwritten line, so that other output starts afresh."""
    if self._open:
      self._stream.write('\n')
      self._stream.flush()
      self._open = False
