"""Seconds of the pieces of work that costs of methods are made of; only ratios matter.

Written by `python -m benchmarks.calibrate`; do not edit.
Measured 2026-11-25 on AMD EPYC (x86_64), 2 threads; torch 2.13.0+cpu,
numpy 2.4.6, scipy 1.17.1; float64.
"""

SECONDS_PER_FLOP = 2.3e-11  # in products of matrices
SECONDS_PER_EXP = 3.2e-09  # one mode at one time: exp, and cos or sin
SECONDS_PER_ENTRY = 2.8e-10  # of a pass over an array into a new one
SECONDS_PER_MATRIX_ENTRY = 1.8e-10  # of a product of a matrix and a vector
SECONDS_PER_CALL = 1.5e-06  # of NumPy on arrays of a few entries
SECONDS_PER_TORCH_CALL = 1.6e-06  # of torch on the same
GEEV = (1.6e-07, 4e-09)  # seconds n^2 and n^3 of eigenvalues with eigenvectors
GEES = (1.7e-07, 2.9e-09)  # the same of a Schur form
COMPILED_CALL = 1.5e-05  # a step by the compiled kernel: two calls and what Python does around them
COMPILED_SYSTEM = 3e-06  # each of its systems
COMPILED_FLOP = 5e-11  # its multiplications with an addition
COMPILED_EXP = 4.6e-09  # one mode at one time: exp, and cos or sin
COMPILED_GEEV = (2e-07, 1.5e-09)  # seconds n^2 and n^3 of eigenvalues with eigenvectors, by SciPy's LAPACK
