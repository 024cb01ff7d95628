"""Seconds of the pieces of work that costs of methods are made of; only ratios matter.

Written by `python -m benchmarks.calibrate`; do not edit.
Measured 2026-11-26 on Intel(R) Xeon(R) Processor (x86_64), 2 threads; torch 2.13.0+cpu,
numpy 2.4.6, scipy 1.17.1; float64.
"""

SECONDS_PER_FLOP = 3.7e-11  # in products of matrices
SECONDS_PER_EXP = 3.8e-08  # one mode at one time: exp, and cos or sin
SECONDS_PER_ENTRY = 1.4e-09  # of a pass over an array into a new one
SECONDS_PER_MATRIX_ENTRY = 2.5e-08  # of a product of a matrix and a vector
SECONDS_PER_CALL = 1.3e-06  # of NumPy on arrays of a few entries
SECONDS_PER_TORCH_CALL = 2.9e-06  # of torch on the same
GEEV = (4.5e-07, 3.5e-09)  # seconds n^2 and n^3 of eigenvalues with eigenvectors
GEES = (3.1e-07, 8.4e-09)  # the same of a Schur form
