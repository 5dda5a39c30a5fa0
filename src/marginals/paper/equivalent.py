"""Planted errors that are none: changes that leave the meaning of a function as it was.

``paper mutate`` does not count these. Every line gives the function, the expression before and
after, and why nothing changes; a line without a good reason does not belong here.
"""

EQUIVALENT: tuple[tuple[str, str, str, str], ...] = ()
