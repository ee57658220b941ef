"""Mistakes in the bytes of a file."""

from benchmarks.mutants.trial import Mutant

CODEC, TENSORS, ADAPTIVE = "tests/test_codec.py", "tests/test_codec_tensors.py", "tests/test_codec_adaptive.py"
DAMAGE, STREAM = "tests/test_codec_damage.py", "tests/test_codec_stream.py"

# fmt: off
MUTANTS = (
    Mutant("modelopt_core.codec.stream:varint", "number > 0x7F", "number > 0xFF", STREAM),
    Mutant("modelopt_core.codec.stream:Reader.take", "size > self.left", "False", STREAM),
    Mutant("modelopt_core.codec.stream:Reader.slowly", "self.slow_left < 0", "False", ADAPTIVE),
    Mutant("modelopt_core.codec.symbols:entropy_bits", "np.log2(some.sum() / some)", "np.log(some.sum() / some)",
           TENSORS),
    Mutant("modelopt_core.codec.symbols:_steps", "steps[-1] * 15 // 14", "steps[-1] * 8 // 7", TENSORS),
    Mutant("modelopt_core.codec.symbols:_nearest_step",
           "counts.astype(np.float64) ** 2 <= low.astype(np.float64) * high", "True", TENSORS),
    Mutant("modelopt_core.codec.symbols:encode", "base > PLANE", "False", TENSORS),
    Mutant("modelopt_core.codec.symbols:encode", "len(symbols) * math.log2(base) < 8 * len(codes[0].data)", "False",
           TENSORS),
    Mutant("modelopt_core.codec.symbols:decode", "2 <= (base := reader.varint()) <= alphabet",
           "2 <= (base := reader.varint())", STREAM),
    Mutant("modelopt_core.codec.places:encode_gaps", "gaps // LONG_GAP", "(gaps - 1) // LONG_GAP", TENSORS),
    Mutant("modelopt_core.codec.places:decode_gaps", "runs == LONG_GAP", "runs > LONG_GAP", TENSORS),
    Mutant("modelopt_core.codec.tensors:encode", "elements.view(np.uint32) != 0", "elements != 0", TENSORS),
    Mutant("modelopt_core.codec.tensors:encode", "min(tried, key=lambda coded: len(coded.data))", "tried[0]", TENSORS),
    Mutant("modelopt_core.codec.tensors:encode", "len(elements) > 1 and raw == one * len(elements)", "False", STREAM),
    Mutant("modelopt_core.codec.lattice:encode_points", "q.reshape(-1)[bits == 1 << 31] = on.levels + 1", "pass",
           CODEC),
    Mutant("modelopt_core.codec.lattice:encode_points", "len(by_gaps.data) < len(coded.data)", "False", TENSORS),
    Mutant("modelopt_core.codec.lattice:_values", "values[codes == on.levels] = 0.0", "pass", CODEC),
    Mutant("modelopt_core.codec.lattice:_grid", "(zeros == zeros[0]).all()", "True", "tests/test_quantize.py"),
    Mutant("modelopt_core.codec.lattice:_grid", "(zeros == _middle(on.levels)).all()", "False", CODEC),
    Mutant("modelopt_core.codec.lattice:EARNED", "0.99", "1.5", ADAPTIVE),
    Mutant("modelopt_core.codec.adaptive:SHARE", "2 * n + 3", "2 * n + 9", STREAM),
    Mutant("modelopt_core.codec.adaptive:_squash", "(CURVE[at] * (128 - part) + CURVE[at + 1] * part) // 128",
           "CURVE[at]", ADAPTIVE),
    Mutant("modelopt_core.codec:_decode", "zlib.crc32(body).to_bytes(CHECKSUM_BYTES, 'little') != checksum", "False",
           DAMAGE),
    Mutant("modelopt_core.codec:Sizes.parts", "row.mode in POINTS", "row.mode == 'grid'", STREAM),
    Mutant("modelopt_core.codec:_same_bits", "torch.equal(bits(a[n]), bits(b[n]))", "torch.equal(a[n], b[n])", STREAM),
    Mutant("modelopt_core.codec.coded:Coded.of", "8 * len(floats)", "len(floats)", "tests/test_codec.py"),
    Mutant("modelopt_core.codec.header:_fields", "spec.input_dtype != 'float32'", "False", STREAM),
    Mutant("modelopt_core.atomic:write", "part.unlink(missing_ok=True)", "None", "tests/test_atomic.py"),
)
