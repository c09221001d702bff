"""The exceptions that are part of normal life."""


class UserError(Exception):
  """What was wrong, where, and what to do, in a sentence for the user.

  `shared_bert.main` prints the sentence without a traceback and leaves with
  exit code 1; every other exception is a bug of ours and leaves with 2.
  """


class Diverged(UserError):
  """Training came to numbers that are not finite."""


class InUse(UserError):
  """A folder in which another run is at work."""


class Preempted(Exception):
  """The run was told to stop, has saved, and wants to be started again.

  `shared_bert.main` leaves with exit code 75, on which the launchers restart.
  """


def printable(text: str) -> str:
  r"""The text with what would steer a terminal written out, as `\x1b`.

  Names and labels come from files and archives of others.
  """
  return ''.join(
    c if c.isprintable() or c in '\n\t' else ascii(c)[1:-1] for c in text
  )
