"""Mistakes in the bytes of a file."""

from benchmarks.mutants.trial import Mutant

CODEC, TENSORS, ADAPTIVE = (
    "tests/files/test_mopt.py",
    "tests/files/test_codec_tensors.py",
    "tests/files/test_codec_adaptive.py",
)
DAMAGE, STREAM = "tests/files/test_codec_damage.py", "tests/files/test_codec_stream.py"

# fmt: off
MUTANTS = (
    Mutant("files.stream:varint", "number > 0x7F", "number > 0xFF", STREAM),
    Mutant("files.stream:Reader.take", "size > self.left", "False", STREAM),
    Mutant("files.stream:Reader.slowly", "self.slow_left < 0", "False", ADAPTIVE),
    Mutant("files.symbols:entropy_bits", "np.log2(some.sum() / some)", "np.log(some.sum() / some)",
           TENSORS),
    Mutant("files.symbols:_steps", "steps[-1] * 15 // 14", "steps[-1] * 8 // 7", TENSORS),
    Mutant("files.symbols:_nearest_step",
           "counts.astype(np.float64) ** 2 <= low.astype(np.float64) * high", "True", TENSORS),
    Mutant("files.symbols:encode", "base > PLANE", "False", TENSORS),
    Mutant("files.symbols:encode", "len(symbols) * math.log2(base) < 8 * len(codes[0].data)", "False",
           TENSORS),
    Mutant("files.symbols:decode", "2 <= (base := reader.varint()) <= alphabet",
           "2 <= (base := reader.varint())", STREAM),
    Mutant("files.nonzeros:encode_gaps", "gaps // LONG_GAP", "(gaps - 1) // LONG_GAP", TENSORS),
    Mutant("files.nonzeros:decode_gaps", "runs == LONG_GAP", "runs > LONG_GAP", TENSORS),
    Mutant("files.tensors:encode", "elements.view(np.uint32) != 0", "elements != 0", TENSORS),
    Mutant("files.tensors:encode", "min(tried, key=lambda coded: len(coded.data))", "tried[0]", TENSORS),
    Mutant("files.tensors:encode", "len(elements) > 1 and raw == one * len(elements)", "False", STREAM),
    Mutant("files.lattice:encode_points", "q.reshape(-1)[bits == 1 << 31] = on.levels + 1", "pass",
           CODEC),
    Mutant("files.lattice:encode_points", "len(by_gaps.data) < len(coded.data)", "False", TENSORS),
    Mutant("files.lattice:_values", "values[codes == on.levels] = 0.0", "pass", CODEC),
    Mutant("files.lattice:_grid", "(zeros == zeros[0]).all()", "True", "tests/steps/test_quantize.py"),
    Mutant("files.lattice:_grid", "(zeros == _middle(on.levels)).all()", "False", CODEC),
    Mutant("files.lattice:EARNED", "0.99", "1.5", ADAPTIVE),
    Mutant("files.adaptive:SHARE", "2 * n + 3", "2 * n + 9", STREAM),
    Mutant("files.adaptive:_squash", "(CURVE[at] * (128 - part) + CURVE[at + 1] * part) // 128",
           "CURVE[at]", ADAPTIVE),
    Mutant("files.mopt:_decode", "zlib.crc32(body).to_bytes(CHECKSUM_BYTES, 'little') != checksum", "False",
           DAMAGE),
    Mutant("files.mopt:Sizes.parts", "row.mode in POINTS", "row.mode == 'grid'", STREAM),
    Mutant("files.mopt:_same_bits", "torch.equal(bits(a[n]), bits(b[n]))", "torch.equal(a[n], b[n])", STREAM),
    Mutant("files.coded:Coded.of", "8 * len(floats)", "len(floats)", "tests/files/test_mopt.py"),
    Mutant("files.header:_fields", "spec.input_dtype != 'float32'", "False", STREAM),
    Mutant("machine.atomic:write", "part.unlink(missing_ok=True)", "None", "tests/machine/test_atomic.py"),
)
