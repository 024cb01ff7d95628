"""Pure numerics: functions of detached tensors, written in torch, and the compiled kernel for small systems (C).

It may import torch, NumPy, SciPy and the standard library, and nothing else of linode. Here belong algorithms and what
is private to torch (`private`). Autograd, checks of what a user passed and the choice of a method never do. A kernel
may rely on the shapes that its docstring names.
"""
