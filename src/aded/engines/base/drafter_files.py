"""A drafter that is named where its model is not loaded yet, and the files that it reads and writes."""

from __future__ import annotations

import os
from pathlib import Path

from aded import drafters
from aded.drafters.base import Drafter, Saved
from aded.errors import CorpusFileError, SettingsError, StateFileError
from aded.representative.storage import STATE


def create_drafter(name: str, *, state: Path | None, corpus: Path | None, share: str | None = None) -> Drafter:
    """A drafter by name for the command line, before its model is loaded.

    Raises:
        UnknownDrafterError: nobody is called that.
        SettingsError, CorpusFileError, StateFileError: it takes no such option or file, the corpus is damaged, or
            the state cannot be saved.
    """
    if corpus is not None and not drafters.takes(name, "corpus"):
        raise CorpusFileError(f"the drafter {name} reads no corpus; leave out --corpus, or use adaptive")
    if share is not None and not drafters.takes(name, "share"):
        raise SettingsError(f"the drafter {name} cannot be told what to share; leave out --share, or use adaptive")
    given = {"corpus": corpus, "share": share}
    made = drafters.create(name, **{option: value for option, value in given.items() if value is not None})
    if state is not None and not isinstance(made, Saved):
        raise StateFileError(f"the drafter {name} keeps no state; leave out --state, or use --drafter adaptive")
    if state is not None:
        STATE.check_writable(state)
    return made


def bind_drafter(drafter: Drafter | Saved, vocab_size: int, fingerprint: str, state: Path | None) -> None:
    """Tell it whose tokens it drafts, and read `state` if that file exists.

    Raises:
        CorpusFileError, StateFileError: a file is damaged or of another vocabulary.
    """
    if not isinstance(drafter, Saved):
        return
    drafter.bind(vocab_size, fingerprint)
    if state is not None and os.path.exists(state):
        drafter.load(state)
