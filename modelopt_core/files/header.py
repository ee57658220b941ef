"""The first part of a `.mopt` file: how to build the model, and a note, such as recipe and score.

JSON, deflated against a dictionary of the words that recipes are made of, so that a recipe of ten steps takes about two
hundred bytes. Files of version 1 have no dictionary, and their JSON may be plain.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from modelopt_core.errors import ModelOptError
from modelopt_core.files.stream import Damaged
from modelopt_core.models.spec import Composition, Spec

MAX_HEADER_BYTES = 2**20  # when inflated; a recipe is a few hundred
RAW_DEFLATE = -zlib.MAX_WBITS  # no header and no checksum of its own

# Part of the format: a changed word makes every file unreadable, so a better dictionary is a new version of the file.
WORDS = b"""\
"workload":"digits","docstrings","mnist","model":["cnn","mlp","bag","textcnn","article","lenet300","mlp1200"],"device":\
"cpu"{"step":"Ensemble","rule":"mean","weights":[]}{"step":"Cascade","threshold":0.9,"confidence":"max_prob",\
"calibrate":false,"thresholds":[]}{"step":"Distill","temperature":4.0,"student":"own","width":0.25,"loss":"kl",\
"alpha":0.9,"epochs":40,"lr":0.003,"batch_size":32,"student_layer":"","teacher_layer":""},\
"criterion":"taylor","hebbian","lamp","l2","granularity":"n:m","block","scope":"global","schedule":"linear",\
"recovery":"fine-tuned","trained","scheme":"codebook","affine","per":"group","tensor","observer":"percentile",\
"entropy","mse","rounding":"stochastic","gptq","adaround","layer_bits":[["conv1",8],["fc1",4]],\
"ratios":[["conv1",0.5],["conv2",0.8],["fc1",0.95],["fc2",0.75],["fc3",0.5]],"frozen":[]},\
{"step":"Quantize","bits":4,"scheme":"symmetric","per":"channel","group":32,"observer":"absmax","rounding":"nearest",\
"examples":512,"prepare":"none","activations":0,"recovery":"none","epochs":3,"lr":0.001,"layer_bits":[]},\
{"step":"Finetune","epochs":8,"lr":0.002,"batch_size":128,"augment":true,"keep_grid":true},\
{"step":"Finetune","epochs":3,"lr":0.001,"batch_size":64,"augment":false,"keep_grid":false},\
{"step":"Prune","ratio":0.0,"criterion":"l1","granularity":"weight","size":4,"shape":"square","scope":"layer",\
"rounds":6,"schedule":"cubic","recovery":"norms","epochs":2,"lr":0.001,"batch_size":64,"augment":false,"ratios":[],\
"frozen":[]}],"score":{"metric":"accuracy","value":0.9,"low":0.9,"high":0.9,"n":10000,"how":"measured","simulated",\
"split":"test","val"},"runtime":"eager","onnx","seed":0}}\
{"a":"mlp","b":{"sizes":[784,300,100,10]},"i":[1,8,8]{"a":"bag","b":{"classes":7,"hidden":64},"i":[48],"t":"int64",\
{"a":"article","textcnn","cnn","i":[1,28,28]{"a":"lenet5","i":[1,28,28],"k":{"conv1":8,"conv2":16,"fc1":48},\
"n":{"recipe":[{"step":"Prune","ratio":0.3,"criterion":"l1","granularity":"channel","size":4,"shape":"square",\
"scope":"layer","rounds":1,"schedule":"cubic","recovery":"norms","epochs":2,"lr":0.001,"batch_size":64,\
"augment":false,"ratios":["""


def encode(spec: Spec, note: Mapping[str, object], inputs: Mapping[str, object]) -> bytes:
    """The header of version 2. inputs: the grids of activations, as `activations.noted` tells them.

    ModelOptError for a note that JSON can't say, or that is too long.
    """
    more = {"q": dict(inputs), "n": dict(note)}
    fields = {**_fields(spec), **{name: value for name, value in more.items() if value}}
    try:
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ModelOptError(
            f"the note is not JSON ({error}); use numbers, texts, lists and mappings of them"
        ) from error
    if len(text) > MAX_HEADER_BYTES:
        raise ModelOptError(f"the note makes a header of {len(text):,} bytes; allowed are {MAX_HEADER_BYTES:,}")
    deflate = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    return deflate.compress(text) + deflate.flush()


def decode(data: bytes, version: int) -> tuple[Spec, dict[str, object], dict[str, Any]]:
    """Spec, note and grids of activations. What is wrong raises something; `codec.decode` makes it the one error."""
    if version > 1:
        data = _inflate(data, zlib.decompressobj(RAW_DEFLATE, WORDS))
    elif not data.startswith(b"{"):
        data = _inflate(data, zlib.decompressobj())
    fields = json.loads(data)
    return _spec(fields), dict(fields.get("n", {})), dict(fields.get("q", {}))


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


def _inflate(data: bytes, inflate: zlib._Decompress) -> bytes:
    text = inflate.decompress(data, MAX_HEADER_BYTES)
    if not inflate.eof:
        raise Damaged(f"its header has more than {MAX_HEADER_BYTES:,} bytes, or is cut short")
    if inflate.unused_data:
        raise Damaged("bytes are left over in its header")
    return text
