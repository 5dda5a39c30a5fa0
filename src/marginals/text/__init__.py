"""Texts as networks see them: the states of their tokens, from an encoder that is not trained."""

from .base import TextEncoder
from .encoders import encoder
from .table import TextTable, encode_table

__all__ = ["TextEncoder", "TextTable", "encode_table", "encoder"]
