"""Cheap first guesses of Xi or its eigenvalues, one method a file."""
