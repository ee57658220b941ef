"""Distillation on MNIST, after Hinton, Vinyals and Dean, arXiv 1503.02531, sec. 3, and against a plain loop.

mnist.py: the paper's experiment. loop.py: `kl` against a loop written from the paper. rows.py: what was measured, in
results/distill.json. tables.py: the tables.
"""
