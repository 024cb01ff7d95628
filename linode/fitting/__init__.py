"""Identification: the machinery of `linode.fit`. `identify` chooses, `one` and `many` fit, `starts` guess."""
