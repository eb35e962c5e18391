"""The stages of the line: small callables, a list in and a list out."""
