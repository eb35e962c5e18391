"""Smaller copies of a model: made (``quantize``), tried layer by layer, judged by their loss, and kept."""
