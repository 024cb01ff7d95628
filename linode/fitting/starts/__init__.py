"""Cheap first guesses, one kind a file."""
