"""Large systems, on the host: products with Xi, its numerical range, and the recurrences of `faber` and `rational`.

NumPy and SciPy only: no torch, no derivatives by autograd, no batches but columns. It imports nothing of linode but
errors. What a user gives is read in `operators`; choice, autograd and layouts are the engine's.
"""
