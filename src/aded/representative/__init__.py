"""The n-gram representative of the target model, in fixed memory."""

from aded.representative.corpus import Corpus
from aded.representative.interpolation import Interpolation, InterpolationWeights
from aded.representative.table import Representative, context_windows, fingerprint, vocabulary_fingerprint

__all__ = [
    "Corpus",
    "Interpolation",
    "InterpolationWeights",
    "Representative",
    "context_windows",
    "fingerprint",
    "vocabulary_fingerprint",
]
