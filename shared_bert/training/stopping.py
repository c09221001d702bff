"""The wish to stop, as a signal leaves it for whoever can act on it."""

import os
import signal
import threading

_asked: str | None = None
_is_one_wish = False


def ask(name: str | None) -> None:
  """Keeps the name of the signal that asked to stop; None forgets it."""
  global _asked
  _asked = name


def asked_to_stop() -> str | None:
  """The name of the signal that asked the command to stop, if one did."""
  return _asked


def is_one_wish() -> bool:
  """Whether further signals say no more than the first: `follow_parent`."""
  return _is_one_wish


def follow_parent() -> None:
  """Asks this process to stop, by SIGTERM, once its parent is gone.

  From here on no signal means "at once". The parent passes its own on, and
  whoever stops both, as Slurm and systemd do, sends one to each: the second
  would end what the first lets be saved. The parent kills what does not end.

  Standard input is a pipe whose other end the parent alone holds. That is
  closed however the parent ends, also before this is called, which the number
  of the parent would not tell.
  """

  def wait() -> None:
    while os.read(0, 1):
      pass
    os.kill(os.getpid(), signal.SIGTERM)

  global _is_one_wish
  _is_one_wish = True
  threading.Thread(target=wait, daemon=True).start()
