"""The compact file `.mopt`: a model that can be built again, its tensors entropy-coded, in the bytes that it takes.

    MOPT, version (1 byte) · header (its length, then deflated JSON) · one record per tensor, in the order of their
    names · CRC-32 of all before

The header names an architecture of the allow-list, its arguments and the channels kept per group; and it holds a note,
such as recipe and score. Names, shapes and types of the tensors follow from these and are not stored. See header.py,
tensors.py for a record, symbols.py for the coding. Files of version 1 can be read.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.files import header, tensors
from modelopt_core.files.stream import SLOW, Damaged, FileError, Reader, varint
from modelopt_core.machine import atomic
from modelopt_core.models import activation_points, identity, sound, weight_grid
from modelopt_core.models.contents import FROZEN
from modelopt_core.models.spec import spec_of
from modelopt_core.runtime.onnx_export import beside, safetensors_bytes
from modelopt_core.structure.build import build

__all__ = ["FileError", "Row", "Sizes", "decode", "encode", "load", "save", "sizes"]

MAGIC, VERSION = b"MOPT", 2
CHECKSUM_BYTES = 4
MAX_FILE_BYTES = 50 * 2**20
MAX_PARAMETERS = 2**24  # 64 MiB of float32; while reading, three times that
FEW_PARAMETERS, PER_BYTE = 2**22, 1024  # what any file may have, and as many more for each of its bytes
MAX_ACTIVATIONS = 2**22  # numbers that one example becomes: where channels were cut, reading follows them
INSTEAD = "use export_safetensors(model, path)"
POINTS = ("grid", "codebook")  # modes whose floats are points, not elements
STORED = (torch.float32, torch.int64)


@dataclass(frozen=True)
class Row:
    """One tensor in the file, in bytes.

    mode: see tensors.py; codes_bytes: coded symbols; floats_bytes: numbers as they are, which are a grid's scales and
    zero points, or else the elements; table_bytes: which symbols occur and how often, lengths; entropy_bytes: the bound
    for codes and floats; symbols: how many different ones are coded.
    """

    name: str
    shape: tuple[int, ...]
    mode: str
    codes_bytes: int
    floats_bytes: int
    table_bytes: int
    entropy_bytes: float
    symbols: int

    @property
    def size_bytes(self) -> int:
        """The whole record."""
        return self.codes_bytes + self.floats_bytes + self.table_bytes


@dataclass(frozen=True)
class Sizes:
    """size_bytes: the whole file; entropy_bytes: the bound for symbols and raw numbers, without header and tables."""

    size_bytes: int
    entropy_bytes: int
    rows: tuple[Row, ...]
    label: str

    @property
    def parts(self) -> dict[str, int]:
        """What the bytes are, for a stacked bar; they add up to size_bytes."""
        grids = sum(row.floats_bytes for row in self.rows if row.mode in POINTS)
        parts = {
            "codes": sum(row.codes_bytes for row in self.rows),
            "scales": grids,
            "float weights": sum(row.floats_bytes for row in self.rows) - grids,
        }
        return {**parts, "header and tables": self.size_bytes - sum(parts.values())}


def encode(model: nn.Module, note: Mapping[str, object] | None = None, *, adaptive: bool = False) -> bytes:
    """The model as the bytes of a `.mopt` file.

    note: anything that JSON can say, such as the recipe and the score; without one, the note that the model was loaded
    with. adaptive: code the weights of a small model (up to 65,536 of them) with a model that learns as it goes: about
    5 % shorter and a hundred times slower. ModelOptError for a model that `models.build` did not make.
    """
    return _encode(model, note, adaptive)[0]


def decode(data: bytes, name: str = "the data") -> nn.Module:
    """The model in eval mode, its grids attached, its note as `model.note`. FileError if anything is wrong."""
    try:
        return _decode(data)
    except Exception as error:  # whatever a damaged or hostile file provokes
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise FileError(f"{name} is not a whole .mopt file ({reason}); save it again or take another copy") from error


def save(
    model: nn.Module, path: str | Path, note: Mapping[str, object] | None = None, *, adaptive: bool = False
) -> Path:
    """Write the model to `path`, read back from memory first; the old file stays whole until the new one is.

    note, adaptive: see `encode`. ModelOptError where the file could not hold all of it, or holds what is not finite.
    """
    data = encode(model, note, adaptive=adaptive)
    sound.check(model)
    if reason := lost(model, data):
        raise ModelOptError(f"{type(model).__name__} cannot be built again from its spec ({reason}); {INSTEAD}")
    return atomic.write(path, data)


def lost(model: nn.Module, data: bytes, frozen: bool = False) -> str:
    """What of the model is not in its file, in words; empty where all is. frozen: which parameters are, counts."""
    try:
        again = decode(data)
    except FileError as error:
        return str(error.__cause__).split("\n")[0][:200]
    if not _same_bits(model.state_dict(), again.state_dict()):
        return "its layers changed"
    if why := identity.unstable(model):
        return why
    forms = [{place: text for place, text in identity.form(one).items() if not beside(place)} for one in (model, again)]
    if not frozen:
        forms = [{place: text.removesuffix(FROZEN) for place, text in one.items()} for one in forms]
    changed = sorted(place for place in {**forms[0], **forms[1]} if forms[0].get(place) != forms[1].get(place))
    if not changed:
        return ""
    was, now = (form.get(changed[0], "absent")[:80] for form in forms)
    return f"{changed[0].replace('_modules.', '')} is {was}, and {now} in a file"


def load(path: str | Path) -> nn.Module:
    """The model that `save` wrote, in eval mode; no training data needed."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise FileError(f"{str(path)!r} has {size:,} bytes; a .mopt file has at most {MAX_FILE_BYTES:,}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {str(path)!r} ({reason}); give the path of a .mopt file") from error
    return decode(data, repr(str(path)))


def sizes(model: nn.Module) -> Sizes:
    """What the file of this model costs, tensor by tensor; size_bytes == len(encode(model)).

    A model that no spec describes is sized by its safetensors file, and the label says so.
    """
    if spec_of(model) is not None:
        data, rows = _encode(model, None)
        return Sizes(len(data), math.ceil(sum(row.entropy_bytes for row in rows)), rows, ".mopt file")
    raw = tuple(Row(n, tuple(t.shape), "raw", 0, t.nbytes, 0, t.nbytes, 0) for n, t in model.state_dict().items())
    size_bytes, entropy_bytes = len(safetensors_bytes(model)), sum(row.size_bytes for row in raw)
    return Sizes(size_bytes, entropy_bytes, raw, ".safetensors file (own class)")


def _encode(
    model: nn.Module, note: Mapping[str, object] | None, adaptive: bool = False
) -> tuple[bytes, tuple[Row, ...]]:
    spec = spec_of(model)
    if spec is None:
        raise ModelOptError(f"a .mopt file cannot say how to build {type(model).__name__}; {INSTEAD}")
    note = model.__dict__.get("note", {}) if note is None else note
    head = header.encode(spec, note, activation_points.noted(model))
    parts, rows = [MAGIC, bytes([VERSION]), varint(len(head)), head], []
    modules = dict(model.named_modules())
    slow = adaptive and sum(t.numel() for t in model.state_dict().values()) <= SLOW
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.dtype not in STORED:
            raise ModelOptError(f"{name} is {tensor.dtype}; a .mopt file holds float32 weights: use model.float()")
        owner, _, attribute = name.rpartition(".")
        coded = tensors.encode(tensor, weight_grid.codes(modules[owner], attribute), slow)
        parts.append(coded.data)
        tables = len(coded.data) - coded.codes_bytes - coded.floats_bytes
        sizes = coded.codes_bytes, coded.floats_bytes, tables, coded.entropy_bits / 8, coded.distinct
        rows.append(Row(name, tuple(tensor.shape), coded.mode, *sizes))
    data = b"".join(parts)
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little"), tuple(rows)


def _decode(data: bytes) -> nn.Module:
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    version = data[len(MAGIC)] if len(data) > len(MAGIC) else 0
    if not data.startswith(MAGIC) or not 1 <= version <= VERSION:
        raise Damaged(f"it does not begin with {MAGIC.decode()} and a version from 1 to {VERSION}")
    if zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise Damaged("its checksum is wrong")
    reader = Reader(body)
    reader.take(len(MAGIC) + 1)
    spec, note, inputs = header.decode(reader.take(reader.varint()), version)
    model = build(spec, 0, min(MAX_PARAMETERS, FEW_PARAMETERS + PER_BYTE * len(data)), MAX_ACTIVATIONS)
    modules, state, grids = dict(model.named_modules()), {}, {}
    for name, like in sorted(model.state_dict().items()):
        state[name], on = tensors.decode(reader, like)
        if on is not None:
            grids[name] = on
    if reader.left:
        raise Damaged(f"{reader.left:,} bytes are left over")
    model.load_state_dict(state, assign=True)
    for name, on in grids.items():
        owner, _, attribute = name.rpartition(".")
        weight_grid.attach(modules[owner], on, attribute)
    activation_points.restore(model, inputs)
    model.__dict__["note"] = note
    with torch.no_grad():
        model.eval()(spec.example)  # whose header contradicts the network does not answer
    return model


def _same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)

    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(bits(a[n]), bits(b[n])) for n in a)
