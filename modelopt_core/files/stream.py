"""Reading bytes that nobody vouches for: every length is checked against what is left before anything is allocated."""

from __future__ import annotations

from modelopt_core.errors import ModelOptError

SLOW = 2**16  # elements of a file that the slow coder may have coded: half a second
VARINT_BYTES = 5  # 35 bits: more than any length that a file may hold


class FileError(ModelOptError):
    """A file that is no `.mopt` file, or no longer a whole one."""


class Damaged(Exception):
    """What `decode` turns into a FileError with the file's name."""


def varint(number: int) -> bytes:
    """A whole number ≥ 0, seven bits to a byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Reader:
    """A place in `data` that only moves forward."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.place = 0
        self.slow_left = SLOW

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.data) - self.place

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > self.left:
            raise Damaged(f"{size:,} bytes are announced and {self.left:,} are left")
        self.place += size
        return bytes(self.data[self.place - size : self.place])

    def slowly(self, elements: int) -> None:
        """So many elements will now be read by the slow coder."""
        self.slow_left -= elements
        if self.slow_left < 0:
            raise Damaged(f"more than {SLOW:,} elements are coded the slow way")

    def varint(self) -> int:
        """The number that `varint` wrote."""
        number = 0
        for i in range(VARINT_BYTES):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return number
        raise Damaged("a number has too many digits")
