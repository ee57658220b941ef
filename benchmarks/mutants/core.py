"""Mistakes in numbers and their intervals, in who a model is, in what is kept, trained and measured."""

from benchmarks.mutants.trial import Mutant

ESTIMATE, IDENTITY, CACHE = "tests/test_estimate.py", "tests/test_identity.py", "tests/test_cache.py"
MEASURE, LAYERS, TRAIN, STEP = (
    "tests/test_measure.py",
    "tests/test_layers.py",
    "tests/test_train.py",
    "tests/test_step.py",
)
RECIPE, BOXES, SWEEP, TURNS = (
    "tests/test_recipe.py",
    "tests/test_boxes.py",
    "tests/test_sweep.py",
    "tests/test_turns.py",
)

# fmt: off
MUTANTS = (
    # ---- estimates
    Mutant("modelopt_core.estimate:wilson", "p * (1 - p)", "p * p", ESTIMATE),
    Mutant("modelopt_core.estimate:_score_interval", "z2 / 4", "z2 / 2", ESTIMATE),
    Mutant("modelopt_core.estimate:_score_interval", "mean + z2 / 2", "mean", ESTIMATE),
    Mutant("modelopt_core.estimate:Z", "1.959963984540054", "1.6448536269514722", ESTIMATE),
    Mutant("modelopt_core.estimate:difference", "change.size + 2", "change.size", ESTIMATE),
    Mutant("modelopt_core.estimate:difference", "second - first", "first - second", ESTIMATE),
    Mutant("modelopt_core.estimate:bootstrap", "(0.025, 0.975)", "(0.05, 0.95)", ESTIMATE),
    Mutant("modelopt_core.estimate:median_quartiles", "(0.25, 0.5, 0.75)", "(0.1, 0.5, 0.9)", ESTIMATE),
    Mutant("modelopt_core.estimate:mcnemar", "min(1.0, 2 * total / 2**n)", "total / 2**n", ESTIMATE),
    Mutant("modelopt_core.estimate:mcnemar", "range(min(won, lost))", "range(max(won, lost))", ESTIMATE),
    Mutant("modelopt_core.estimate:holm", "len(ps) - rank", "len(ps)", ESTIMATE),
    Mutant("modelopt_core.estimate:holm", "still and ps[at] <= alpha / (len(ps) - rank)",
           "ps[at] <= alpha / (len(ps) - rank)", ESTIMATE),
    Mutant("modelopt_core.estimate:verdict", "delta > 0", "delta >= 1", ESTIMATE),
    Mutant("modelopt_core.estimate:difference", "np.square(change).sum() + 1", "np.square(change).sum()", ESTIMATE),
    # ---- who a model is, and what is kept
    Mutant("modelopt_core.identity:key", "[*model.named_parameters(), *model.named_buffers()]",
           "[*model.named_parameters()]", IDENTITY, "buffers in the key"),
    Mutant("modelopt_core.identity:key", "[*model.named_parameters(), *model.named_buffers()]",
           "[*model.state_dict().items()]", IDENTITY, "buffers in the key"),
    Mutant("modelopt_core.identity:key", "noted[1] == _fingerprint(model)", "True", IDENTITY),
    Mutant("modelopt_core.identity:_fingerprint", "[*model.parameters(), *model.buffers()]", "[*model.parameters()]",
           IDENTITY, "buffers in the key"),
    Mutant("modelopt_core.identity:_fingerprint", "t._version", "0", IDENTITY),
    Mutant("modelopt_core.identity:digest", "'\\x1f'.join(str(part) for part in parts)",
           "''.join(str(part) for part in parts)", IDENTITY),
    Mutant("modelopt_core.identity:clone", "copy.deepcopy(model).eval()", "copy.deepcopy(model)", IDENTITY),
    Mutant("modelopt_core.cache:Store.peek", "self._items.move_to_end(key)", "None", CACHE),
    Mutant("modelopt_core.cache:Store._put", "self._items.popitem(last=False)", "self._items.popitem()", CACHE),
    Mutant("modelopt_core.cache:Store._put", "size > self.max_bytes", "size >= self.max_bytes", CACHE),
    Mutant("modelopt_core.cache:Store._put", "self.size_bytes -= freed", "pass", CACHE),
    # ---- steps and recipes
    Mutant("modelopt_core.knob:Knob.stops", "round((self.high - self.low) / self.step) + 1",
           "round((self.high - self.low) / self.step)", STEP),
    Mutant("modelopt_core.knob:Knob.values", "width // 2", "width // 3", STEP),
    Mutant("modelopt_core.knob:Doublings.stops", "2 * found[-1] < self.high", "2 * found[-1] <= self.high", STEP),
    Mutant("modelopt_core.recipe:run",
           "measure(model, workload, split, runtime=runtime, device=device, baseline=baseline)",
           "measure(model, workload, split, runtime=runtime, device=device)", RECIPE),
    Mutant("modelopt_core.recipe:run", "[step.apply(models, workload, seed=seed, report=report)]",
           "[step.apply(models, workload, seed=seed, report=report)] * 2", STEP + " " + RECIPE),
    Mutant("modelopt_core.reading:_line", "text.count('\\n', 0, place) + 1", "text.count('\\n', 0, place)", RECIPE),
    # ---- measuring
    Mutant("modelopt_core.measure:compare", "first.answers != second.answers", "first.scores != second.scores",
           MEASURE),
    Mutant("modelopt_core.measure:compare", "difference(was, now)", "difference(now, was)", MEASURE),
    Mutant("modelopt_core.measure:_masked", "zeros > ZEROS * sum(p.numel() for p in counted)", "False", MEASURE),
    Mutant("modelopt_core.measure:_measure", "said.integer if on_grid else not _masked(model)", "True", MEASURE),
    Mutant("modelopt_core.measure:_macs", "share * one", "one", "tests/test_cascade.py"),
    Mutant("modelopt_core.timing:interleave", "times[:, 1] / times[:, 0]", "times[:, 0] / times[:, 1]", MEASURE),
    Mutant("modelopt_core.timing:interleave", "abs(reference.value / expected_ms - 1) > DRIFT",
           "reference.value / expected_ms - 1 > DRIFT", MEASURE),
    Mutant("modelopt_core.layers:_Counter.call_module", "layer.weight[0].numel()", "layer.weight.numel()", LAYERS),
    Mutant("modelopt_core.layers:_attention_macs", "2 * sent * read * inner", "sent * read * inner", LAYERS),
    Mutant("modelopt_core.calls:sample", "torch.arange(k) * n // k", "torch.arange(k)", "tests/test_calls.py"),
    Mutant("modelopt_core.calls:calls", "workload.loss(outputs, targets) * len(x)", "workload.loss(outputs, targets)",
           "tests/test_prune_stats.py"),
    Mutant("modelopt_core.boxes:overlap", "(high - low).prod(dim=1) + (last - first).prod(dim=1) - both",
           "(high - low).prod(dim=1) + (last - first).prod(dim=1)", BOXES),
    Mutant("modelopt_core.boxes:crop", "boxes.new_ones(len(boxes))", "2 * boxes.new_ones(len(boxes))", BOXES),
    # ---- training
    Mutant("modelopt_core.train:fit", "math.cos(math.pi * clock.step / clock.total)", "1", TRAIN),
    Mutant("modelopt_core.train:fit", "parameter.data.masked_fill_(zero, 0.0)", "None", TRAIN),
    Mutant("modelopt_core.train:fit", "clock.epoch - best.epoch >= max(1, patience)", "False", TRAIN),
    Mutant("modelopt_core.train:evaluate", "score / len(split)", "score / max(1, len(split) - 1)", TRAIN),
    Mutant("modelopt_core.train:_Best.offer", "(score, -loss) > (self.score, -self.loss)",
           "(score, loss) > (self.score, self.loss)", TRAIN),
    Mutant("modelopt_core.train:reestimate_norms", "norm.reset_running_stats()", "None", TRAIN),
    Mutant("modelopt_core.augment:shift", "2 * pixels + 1", "2 * pixels", "tests/test_augment.py"),
    Mutant("modelopt_core.augment:speckle", "share / 2", "share", "tests/test_augment.py"),
    # ---- turns
    Mutant("modelopt_core.sweep:Sweeper._serve", "self._queue[-1]", "self._queue[0]", SWEEP),
    Mutant("modelopt_core.turns:pauser", "_line and _behind(turn)", "False", TURNS),
    Mutant("modelopt_core.turns:pauser", "not _state['timing']", "True", TURNS),
)
