"""The wish to stop, as a signal leaves it for whoever can act on it."""

_asked: str | None = None


def ask(name: str | None) -> None:
  """Keeps the name of the signal that asked to stop; None forgets it."""
  global _asked
  _asked = name


def asked_to_stop() -> str | None:
  """The name of the signal that asked the command to stop, if one did."""
  return _asked
