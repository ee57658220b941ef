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
    Mutant("modelopt_core.files.stream:varint", "number > 0x7F", "number > 0xFF", STREAM),
    Mutant("modelopt_core.files.stream:Reader.take", "size > self.left", "False", STREAM),
    Mutant("modelopt_core.files.stream:Reader.slowly", "self.slow_left < 0", "False", ADAPTIVE),
    Mutant("modelopt_core.files.symbols:entropy_bits", "np.log2(some.sum() / some)", "np.log(some.sum() / some)",
           TENSORS),
    Mutant("modelopt_core.files.symbols:_steps", "steps[-1] * 15 // 14", "steps[-1] * 8 // 7", TENSORS),
    Mutant("modelopt_core.files.symbols:_nearest_step",
           "counts.astype(np.float64) ** 2 <= low.astype(np.float64) * high", "True", TENSORS),
    Mutant("modelopt_core.files.symbols:encode", "base > PLANE", "False", TENSORS),
    Mutant("modelopt_core.files.symbols:encode", "len(symbols) * math.log2(base) < 8 * len(codes[0].data)", "False",
           TENSORS),
    Mutant("modelopt_core.files.symbols:decode", "2 <= (base := reader.varint()) <= alphabet",
           "2 <= (base := reader.varint())", STREAM),
    Mutant("modelopt_core.files.nonzeros:encode_gaps", "gaps // LONG_GAP", "(gaps - 1) // LONG_GAP", TENSORS),
    Mutant("modelopt_core.files.nonzeros:decode_gaps", "runs == LONG_GAP", "runs > LONG_GAP", TENSORS),
    Mutant("modelopt_core.files.tensors:encode", "elements.view(np.uint32) != 0", "elements != 0", TENSORS),
    Mutant("modelopt_core.files.tensors:encode", "min(tried, key=lambda coded: len(coded.data))", "tried[0]", TENSORS),
    Mutant("modelopt_core.files.tensors:encode", "len(elements) > 1 and raw == one * len(elements)", "False", STREAM),
    Mutant("modelopt_core.files.lattice:encode_points", "q.reshape(-1)[bits == 1 << 31] = on.levels + 1", "pass",
           CODEC),
    Mutant("modelopt_core.files.lattice:encode_points", "len(by_gaps.data) < len(coded.data)", "False", TENSORS),
    Mutant("modelopt_core.files.lattice:_values", "values[codes == on.levels] = 0.0", "pass", CODEC),
    Mutant("modelopt_core.files.lattice:_grid", "(zeros == zeros[0]).all()", "True", "tests/steps/test_quantize.py"),
    Mutant("modelopt_core.files.lattice:_grid", "(zeros == _middle(on.levels)).all()", "False", CODEC),
    Mutant("modelopt_core.files.lattice:EARNED", "0.99", "1.5", ADAPTIVE),
    Mutant("modelopt_core.files.adaptive:SHARE", "2 * n + 3", "2 * n + 9", STREAM),
    Mutant("modelopt_core.files.adaptive:_squash", "(CURVE[at] * (128 - part) + CURVE[at + 1] * part) // 128",
           "CURVE[at]", ADAPTIVE),
    Mutant("modelopt_core.files.mopt:_decode", "zlib.crc32(body).to_bytes(CHECKSUM_BYTES, 'little') != checksum", "False",
           DAMAGE),
    Mutant("modelopt_core.files.mopt:Sizes.parts", "row.mode in POINTS", "row.mode == 'grid'", STREAM),
    Mutant("modelopt_core.files.mopt:_same_bits", "torch.equal(bits(a[n]), bits(b[n]))", "torch.equal(a[n], b[n])", STREAM),
    Mutant("modelopt_core.files.coded:Coded.of", "8 * len(floats)", "len(floats)", "tests/files/test_mopt.py"),
    Mutant("modelopt_core.files.header:_fields", "spec.input_dtype != 'float32'", "False", STREAM),
    Mutant("modelopt_core.machine.atomic:write", "part.unlink(missing_ok=True)", "None", "tests/machine/test_atomic.py"),
)
