"""The compact file `.mopt`: a model that can be built again, its tensors entropy-coded, in the bytes that it takes.

    MOPT, version (1 byte) · header (its length, then JSON, deflated where that is shorter) · one record per tensor,
    in the order of their names · CRC-32 of all before

The header names an architecture of the allow-list, its arguments and the channels kept per group. Names, shapes and
types of the tensors follow from these and are not stored. See tensors.py for a record, symbols.py for the coding.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from modelopt_core import atomic, grid
from modelopt_core.codec import tensors
from modelopt_core.codec.stream import Damaged, FileError, Reader, varint
from modelopt_core.errors import ModelOptError
from modelopt_core.models import build
from modelopt_core.spec import Composition, Spec, spec_of

__all__ = ["FileError", "Row", "Sizes", "decode", "encode", "load", "save", "sizes"]

MAGIC = b"MOPT\x01"
CHECKSUM_BYTES = 4
MAX_FILE_BYTES = 50 * 2**20
MAX_PARAMETERS = 2**24  # 64 MiB of float32; while reading, three times that
INSTEAD = "use safetensors.torch.save_file(model.state_dict(), path)"
STORED = (torch.float32, torch.int64)
MAX_HEADER_BYTES = 2**20  # when inflated; a recipe is a few hundred


@dataclass(frozen=True)
class Row:
    """One tensor in the file. mode: raw, constant, sparse, grid, codebook; entropy_bytes: the bound for its payload."""

    name: str
    shape: tuple[int, ...]
    mode: str
    size_bytes: int
    entropy_bytes: float


@dataclass(frozen=True)
class Sizes:
    """size_bytes: the whole file; entropy_bytes: the bound for symbols and raw numbers, without header and tables."""

    size_bytes: int
    entropy_bytes: int
    rows: tuple[Row, ...]
    label: str


def encode(model: nn.Module, note: Mapping[str, object] | None = None) -> bytes:
    """The model as the bytes of a `.mopt` file.

    note: anything that JSON can say, such as the recipe and the score; without one, the note that the model was loaded
    with. ModelOptError for a model that `models.build` did not make.
    """
    return _encode(model, note)[0]


def decode(data: bytes, name: str = "the data") -> nn.Module:
    """The model in eval mode, its grids attached, its note as `model.note`. FileError if anything is wrong."""
    try:
        return _decode(data)
    except Exception as error:  # whatever a damaged or hostile file provokes
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise FileError(f"{name} is not a whole .mopt file ({reason}); save it again or take another copy") from error


def save(model: nn.Module, path: str | Path, note: Mapping[str, object] | None = None) -> Path:
    """Write the model to `path`, read back from memory first; the old file stays whole until the new one is."""
    data = encode(model, note)
    try:
        same, reason = _same_bits(model.state_dict(), decode(data).state_dict()), "its layers changed"
    except FileError as error:
        same, reason = False, str(error.__cause__).split("\n")[0][:200]
    if not same:
        raise ModelOptError(f"{type(model).__name__} cannot be built again from its spec ({reason}); {INSTEAD}")
    return atomic.write(path, data)


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
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    raw = tuple(Row(n, tuple(t.shape), "raw", t.nbytes, t.nbytes) for n, t in state.items())
    return Sizes(
        len(safetensors.torch.save(state)), sum(row.size_bytes for row in raw), raw, ".safetensors file (own class)"
    )


def _encode(model: nn.Module, note: Mapping[str, object] | None) -> tuple[bytes, tuple[Row, ...]]:
    spec = spec_of(model)
    if spec is None:
        raise ModelOptError(f"a .mopt file cannot say how to build {type(model).__name__}; {INSTEAD}")
    header = _header(spec, model.__dict__.get("note", {}) if note is None else note)
    parts, rows = [MAGIC, varint(len(header)), header], []
    modules = dict(model.named_modules())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.dtype not in STORED:
            raise ModelOptError(f"{name} is {tensor.dtype}; a .mopt file holds float32 weights: use model.float()")
        owner, _, attribute = name.rpartition(".")
        coded = tensors.encode(tensor, grid.codes(modules[owner], attribute))
        parts.append(coded.data)
        rows.append(Row(name, tuple(tensor.shape), coded.mode, len(coded.data), coded.entropy_bits / 8))
    data = b"".join(parts)
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little"), tuple(rows)


def _decode(data: bytes) -> nn.Module:
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if not data.startswith(MAGIC):
        raise Damaged(f"it does not begin with {MAGIC[:4].decode()} and version {MAGIC[4]}")
    if zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise Damaged("its checksum is wrong")
    reader = Reader(body)
    reader.take(len(MAGIC))
    spec, note = _read_header(reader.take(reader.varint()))
    model = build(spec, max_parameters=MAX_PARAMETERS)
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
        grid.attach(modules[owner], on, attribute)
    model.__dict__["note"] = note
    return model.eval()


def _header(spec: Spec, note: Mapping[str, object]) -> bytes:
    fields = {**_fields(spec), "n": dict(note)} if note else _fields(spec)
    try:
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ModelOptError(
            f"the note is not JSON ({error}); use numbers, texts, lists and mappings of them"
        ) from error
    if len(text) > MAX_HEADER_BYTES:
        raise ModelOptError(f"the note makes a header of {len(text):,} bytes; allowed are {MAX_HEADER_BYTES:,}")
    return min(text, zlib.compress(text, 9), key=len)


def _fields(spec: Spec) -> dict[str, object]:
    """The spec as JSON has it; a composite's members lie in it the same way."""
    fields = {
        "a": spec.architecture,
        "b": dict(sorted(spec.arguments)),
        "i": spec.input_shape,
        "t": spec.input_dtype if spec.input_dtype != "float32" else "",
        "k": dict(spec.kept),
        "m": [_fields(member) for member in spec.members] if isinstance(spec, Composition) else (),
    }
    return {name: value for name, value in fields.items() if value}


def _spec(fields: Mapping[str, Any]) -> Spec:
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.get("b", {}).items()}
    known: dict[str, Any] = {
        "architecture": fields["a"],
        "arguments": tuple(sorted(arguments.items())),
        "input_shape": tuple(fields["i"]),
        "input_dtype": fields.get("t", "float32"),
        "kept": tuple(fields.get("k", {}).items()),
    }
    return Composition(**known, members=tuple(map(_spec, fields["m"]))) if "m" in fields else Spec(**known)


def _read_header(data: bytes) -> tuple[Spec, dict[str, object]]:
    if not data.startswith(b"{"):
        inflate = zlib.decompressobj()
        data = inflate.decompress(data, MAX_HEADER_BYTES)
        if not inflate.eof:
            raise Damaged(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
    fields = json.loads(data)
    return _spec(fields), dict(fields.get("n", {}))


def _same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)

    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(bits(a[n]), bits(b[n])) for n in a)
