"""Pure numerics on detached tensors: no autograd, no validation, no choice of method."""
