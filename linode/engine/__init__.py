"""The data path, once: from the checked question (`problem`) over the plan and its evaluation (`evaluation`) to the
derivatives (`autograd`, and `compiled` beneath torch.compile).

It may import kernels and methods. What acts on a system beside Xi belongs to `linode.forcing`, what a user calls to the
modules of `linode` itself. Nothing here chooses a method or knows how one works.
"""
