"""Identification: the inside of `linode.fit`.

`identify` chooses between `by_rates` (one trajectory without inputs) and `by_states` (all else); both run `race` on the
guesses of `starts`. What is free, known or structured stands in `unknowns`; complex data become real in `complexes`.
It may import solvers, forcing, `nn` and all below them; only the command line, and `linode` itself when a fit is first
asked for, may import it. Here belongs what only fits need. How a system is solved never does. Inner loops are NumPy.
"""
