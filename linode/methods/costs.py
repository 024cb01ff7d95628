"""Pieces of work that costs of methods are made of, in seconds; only ratios matter.

Written by `python -m benchmarks.calibrate`; do not edit.
Measured 2026-11-30 on AMD EPYC (x86_64), 1 thread; torch 2.13.0+cpu,
numpy 2.4.6, scipy 1.17.1; float64.
"""

SECONDS_PER_FLOP = 2.8e-11  # in products of matrices
SECONDS_PER_ROW = 9.7e-10  # of few columns, of a product: beside its flops
SECONDS_PER_CALL = 8.8e-07  # of torch for a product of a small matrix and a vector
SECONDS_PER_EXP = 4.7e-09  # one mode at one time: exp, and cos or sin
SECONDS_PER_ENTRY = 2.8e-10  # of a pass over an array into a new one
SECONDS_PER_MATRIX_ENTRY = 1.4e-10  # of a product of a matrix and a vector
GEEV = (1.4e-07, 2.4e-09)  # seconds n^2 and n^3 of eigenvalues with eigenvectors
GEES = (1.1e-07, 3e-09)  # the same of a Schur form
OPERATORS = {"chain": 372, "eig": 222, "metzler": 658, "propagator": 427, "taylor": 325}  # of torch in a training step
OPERATORS_OF_CHECK = 396  # more of them where `propagator` checks its rounding
OPERATORS_OF_PAIRS = 170  # more of them where `eig` refines close modes
SECONDS_PER_OPERATOR = 5.4e-06  # one of these on a few numbers, with its share of views and of Python
COMPILED_CALL = 1.7e-05  # a step by the compiled kernel: its three calls
COMPILED_SYSTEM = 2e-06  # each of its systems, of two states at one time
COMPILED_EIG = (1.9e-07, 2.9e-09)  # seconds n^2 and n^3 of its eigenpairs, their check and what a gradient adds
COMPILED_EIG_TIME = (7.9e-09, 9.6e-11)  # seconds n and n^2 of a state and its gradient by modes
COMPILED_FLOP = 5.9e-11  # its multiplications with an addition, in polynomials of `chain`
SECONDS_PER_LAUNCH = 5e-06  # of an operator off the CPU; typical of CUDA over PCIe 3 x16, not measured
SECONDS_PER_WAIT = 2e-05  # of a value read there; typical of CUDA over PCIe 3 x16, not measured
SECONDS_PER_BYTE = 8.3e-11  # of a copy from there or to there; typical of CUDA over PCIe 3 x16, not measured
