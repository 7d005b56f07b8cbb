"""The n-gram representative of the target model, in fixed memory."""

from aded.representative.table import Representative, fingerprint, windows

__all__ = ["Representative", "fingerprint", "windows"]
