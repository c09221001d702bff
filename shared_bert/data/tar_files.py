"""The texts of a tar archive, read in its order and never unpacked to disk."""

import tarfile
from collections.abc import Iterator
from tarfile import HeaderError, ReadError, TarFile, TarInfo
from typing import IO, Any

from shared_bert.data import text_files, unpacking

_BLOCK = 2**20
_tarfile: Any = tarfile  # what its types leave out is used here
_END = _tarfile.EOFHeaderError


def read_members(
  place: str, stream: IO[bytes]
) -> Iterator[tuple[str, IO[bytes]]]:
  """Goes through the regular files of an archive.

  Links, folders and devices are passed over, and so are the `._` files in
  which macOS keeps attributes. Names are only for sentences.

  Args:
    place: what sentences call the archive.
    stream: its unpacked bytes, read once from the beginning to the end.

  Yields:
    A member's name and its bytes, to be read before the next.

  Raises:
    UserError: the archive is damaged or ends too early.
  """
  try:
    with _tarfile.open(fileobj=stream, mode='r|', tarinfo=_Member) as archive:
      while member := archive.next():
        # The list would grow with the archive.
        archive.members.clear()
        base = member.name.rpartition('/')[2]
        file = archive.extractfile(member) if member.isreg() else None
        if file and not base.startswith('._'):
          # A name may hold bytes that are not UTF-8.
          name = member.name.encode('utf-8', 'backslashreplace').decode()
          yield name, file
      # Only at its end does packing tell whether all of it was right.
      while block := archive.fileobj.read(_BLOCK):
        if block.strip(b'\0'):
          raise ReadError('there is more behind its end')
  except unpacking.DAMAGED as error:
    raise text_files.damaged(place, error) from error


class _Member(TarInfo):
  """A header; tarfile takes a damaged one for the end of the archive."""

  @classmethod
  def fromtarfile(cls, tarfile: TarFile) -> '_Member':
    """Reads a header; named and called by tarfile.

    Raises:
      ReadError: it is damaged, or the archive ends without its mark.
      HeaderError: the mark of its end.
    """
    try:
      return super().fromtarfile(tarfile)
    except HeaderError as error:
      if isinstance(error, _END):
        raise
      raise ReadError(str(error)) from error
