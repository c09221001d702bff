"""The last step of preparation: audit, manifest, and the corpus's name."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import shared_bert
from shared_bert.data import audit as audit_lib
from shared_bert.data import corpus as corpus_lib
from shared_bert.data import row_files, text_files
from shared_bert.data.documents import Tokenise
from shared_bert.errors import UserError

_FILES = ('vocab.txt', 'tokenizer_config.json', 'audit.json', 'lengths.png')


def write_manifest(
  folder: pathlib.Path,
  request: Mapping[str, Any],
  tokenise: Tokenise,
  shards: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
  """Writes what a corpus has beside its vocabulary and its rows.

  Args:
    folder: that holds both.
    request: what was asked for, as `prepare_corpus` puts it.
    tokenise: what made the ids.
    shards: name -> `counts` and `files`, of every shard.

  Returns:
    The audit.

  Raises:
    UserError: there are no rows to train on.
    OSError: a file cannot be written.
  """
  sharding, tokenizer = tokenise.sharding, tokenise.tokenizer
  of_sides = [
    [shards[name]['counts'] for name in names]
    for names in (
      sharding.names[: sharding.train],
      sharding.names[sharding.train :],
    )
  ]
  train, heldout = (
    audit_lib.total_counts(counts) if counts else None for counts in of_sides
  )
  assert train is not None
  if not train['rows']:
    raise UserError(
      f'There is no text to train on in {len(request["inputs"])} input '
      'file(s): no document has enough tokens for a row outside the held-out '
      'share; check the inputs.'
    )
  audit = audit_lib.make_audit(
    train, heldout, request['seq_len'], request['deduplicate']
  )
  text = json.dumps(audit, indent=2) + '\n'
  row_files.write_file(folder / 'audit.json', [text.encode()])
  row_files.write_file(folder / 'lengths.png', [audit_lib.draw(audit)])
  row_facts = {
    name: facts
    for shard in sharding.names
    for name, facts in shards[shard]['files'].items()
  }
  digests = ' '.join(facts['sha256'] for facts in row_facts.values())
  manifest = {
    'format': corpus_lib.FORMAT,
    'shared_bert': shared_bert.__version__,
    'seq_len': request['seq_len'],
    'dtype': tokenise.dtype.name,
    'pairs': request['pairs'],
    'deduplicate': request['deduplicate'],
    'heldout_fraction': request['heldout_fraction'],
    'shards': {'train': sharding.train, 'heldout': sharding.heldout},
    'fingerprint': hashlib.sha256(digests.encode('ascii')).hexdigest(),
    'tokenizer': {
      'trained_size': None,
      **request['tokenizer'],
      'sha256': tokenizer.sha256,
      'vocab_size': tokenizer.vocab_size,
      'lowercase': tokenizer.lowercase,
    },
    'counts': {
      'files': len(request['inputs']),
      **{
        key: audit[key]
        for key in (
          'text_bytes',
          'documents',
          'heldout_documents',
          'duplicate_documents',
          'rows',
          'heldout_rows',
          'segments',
          'tokens',
          'unknown_tokens',
          'dropped_tokens',
          'padding_share',
        )
      },
    },
    'inputs': request['inputs'],
    'files': {
      **{
        name: {
          'bytes': (folder / name).stat().st_size,
          'sha256': text_files.file_hash(folder / name),
        }
        for name in _FILES
      },
      **row_facts,
    },
  }
  row_files.write_file(
    folder / 'manifest.json', [corpus_lib.encode_manifest(manifest)]
  )
  return audit


def publish(
  partial: pathlib.Path, output: pathlib.Path, leave: tuple[str, ...]
) -> None:
  """Gives a corpus its name, after all of it has reached the disk.

  Args:
    partial: the folder that holds it.
    output: its name.
    leave: names in the folder that are no part of the corpus.

  Raises:
    OSError: it cannot be renamed.
  """
  for name in leave:
    if (partial / name).is_dir():
      shutil.rmtree(partial / name)
    else:
      (partial / name).unlink(missing_ok=True)
  for path in (*partial.iterdir(), partial):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
  os.rename(partial, output)
