"""Solvers measured against the field: problems whose truth is known, other libraries' samplers as
plain functions, and figures of the difference."""
