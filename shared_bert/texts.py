"""What counts as a text, and as several, of those that a model is given."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

from shared_bert.errors import UserError

# A text, or two that belong together; a question comes before its context.
Text = str | tuple[str, str]
# What an error calls a text, by its place among them, from 0.
Place = Callable[[int], str]


def numbered(index: int) -> str:
  """The place of a text that nothing is known of: `text 1` for the first."""
  return f'text {index + 1}'


def is_one(texts: Any) -> TypeGuard[Text]:
  """Whether these are one text: a str, or a tuple of exactly two (a pair)."""
  return isinstance(texts, str) or (
    isinstance(texts, tuple)
    and len(texts) == 2
    and all(isinstance(text, str) for text in texts)
  )


def as_list(texts: Any, place: Place = numbered) -> list[Text]:
  """Several texts as a list.

  Args:
    texts: any iterable of what `is_one`: a list, an array [N], a generator, a
      column of a data frame.
    place: of each, for errors.

  Raises:
    UserError: it is none, or holds something else; the sentence names the
      first that is wrong.
  """
  told = 'texts are strings, or pairs of strings'
  kind = type(texts).__name__
  if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
    raise UserError(f'{told}, or many of either: this is of type {kind}.')
  # A data frame would give the names of its columns.
  dimensions = getattr(texts, 'ndim', 1)
  if dimensions != 1:
    raise UserError(
      f'{told}, or many of either: this {kind} has {dimensions} dimensions. '
      'Take one column of it, or pairs: list(zip(first, second)).'
    )
  found = list(texts)
  for index, text in enumerate(found):
    if not is_one(text):
      pair = ' (a pair is a tuple of two)' if isinstance(text, Iterable) else ''
      raise UserError(
        f'{told}: {place(index)} is of type {type(text).__name__}{pair}.'
      )
    for part in (text,) if isinstance(text, str) else text:
      _check_letters(part, place(index))
  return found


def _check_letters(text: str, place: str) -> None:
  """An error for half a surrogate pair, as arguments that are not UTF-8 have.

  The tokenizer would raise a TypeError.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{place} is not valid Unicode: character {error.start + 1} is '
      f'{text[error.start]!a}. Mend the text, or give it as UTF-8.'
    ) from error
