"""Identification: the inside of `linode.fit`.

`identify` chooses between `by_rates` (one trajectory without inputs) and `by_states` (all else); both run `race` on the
guesses of `starts`. May import solvers, inputs, `nn` and below; nothing below may import it. Inner loops are NumPy.
"""
