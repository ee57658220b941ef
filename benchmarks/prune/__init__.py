"""Pruning against its peers, criteria against each other, and how far it goes.

    python -m benchmarks.prune                      measure what is not in results/ yet, then write results/prune.md
    python -m benchmarks.prune peers digits/cnn     one part (masks, peers, criteria, sparse), or a piece of it
    python -m benchmarks.prune table                only write the table

Rows are added to `results/prune-*.jsonl` as they come, with machine, versions and date: a run that was stopped goes
on, and a row that is deleted is measured again. On one thread, so that a second one is left for who works here.
"""
