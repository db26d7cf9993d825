"""Nouns: frozen, without I/O and without a clock."""
