"""The data path of every solver: checked arguments (`problem`), the plan and its evaluation (`evaluation`), derivatives
(`autograd`; `compiled` under torch.compile). Beside it: what is past the largest float (`overflow`), how large the
error of an answer is (`checking`, `conditioning`), and whether a solver's tensors are still its user's (`held`).

It may import kernels and methods. Inputs and constant forcing belong to `linode.forcing`, functions that a
user calls to the modules of `linode` itself. Nothing here chooses a method or knows how one works.
"""
