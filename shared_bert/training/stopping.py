"""The wish to stop, as a signal leaves it for whoever can act on it."""

import os
import signal
import threading

_asked: str | None = None


def ask(name: str | None) -> None:
  """Keeps the name of the signal that asked to stop; None forgets it."""
  global _asked
  _asked = name


def asked_to_stop() -> str | None:
  """The name of the signal that asked the command to stop, if one did."""
  return _asked


def follow_parent() -> None:
  """Asks this process to stop, by SIGTERM, once its parent is gone.

  Standard input is a pipe whose other end the parent alone holds. That is
  closed however the parent ends, also before this is called, which the number
  of the parent would not tell.
  """

  def wait() -> None:
    while os.read(0, 1):
      pass
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=wait, daemon=True).start()
