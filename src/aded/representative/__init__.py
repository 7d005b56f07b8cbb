"""The n-gram representative of the target model, in fixed memory."""

from aded.representative.blend import Blend, Trust
from aded.representative.corpus import Corpus
from aded.representative.table import Representative, fingerprint, vocabulary_fingerprint, windows

__all__ = ["Blend", "Corpus", "Representative", "Trust", "fingerprint", "vocabulary_fingerprint", "windows"]
