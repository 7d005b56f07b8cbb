"""The n-gram representative of the target model, in fixed memory."""

from aded.representative.blend import Blend, Trust
from aded.representative.table import Representative, fingerprint, windows

__all__ = ["Blend", "Representative", "Trust", "fingerprint", "windows"]
