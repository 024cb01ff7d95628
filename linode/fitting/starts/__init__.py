"""Cheap first guesses of Xi or of its eigenvalues, one algorithm a file.

It may import the data and the numerics of `linode.fitting`. Only guesses are made here: `by_rates` and `by_states`
choose among them and refine them.
"""
