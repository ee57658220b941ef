"""What coding a tensor gives: its bytes, and which of them are codes, raw numbers and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modelopt_core.files.symbols import Code

FLOAT = np.dtype("<f4")
NO_CODE = Code(b"")


@dataclass(frozen=True)
class Coded:
    """A tensor's bytes. What is neither codes nor raw numbers is tables: modes, lengths, how often each symbol occurs.

    entropy_bits: the bound for codes and raw numbers, that is the entropy of the stored symbols and the raw numbers;
    distinct: how many different symbols are stored, gaps and codes apart.
    """

    data: bytes
    codes_bytes: int
    floats_bytes: int
    entropy_bits: float
    distinct: int
    mode: str = ""

    @classmethod
    def of(cls, code: Code = NO_CODE, floats: bytes = b"") -> Coded:
        """The code and after it the raw numbers."""
        entropy_bits = code.entropy_bits + 8 * len(floats)
        return cls(code.data + floats, code.payload_bytes, len(floats), entropy_bits, code.distinct)

    def __add__(self, other: Coded) -> Coded:
        """This, and the other after it."""
        codes, floats = self.codes_bytes + other.codes_bytes, self.floats_bytes + other.floats_bytes
        entropy_bits, distinct = self.entropy_bits + other.entropy_bits, self.distinct + other.distinct
        return Coded(self.data + other.data, codes, floats, entropy_bits, distinct, self.mode)

    def after(self, head: bytes, mode: str = "") -> Coded:
        """The same after a few bytes of tables."""
        return replace(self, data=head + self.data, mode=mode)
