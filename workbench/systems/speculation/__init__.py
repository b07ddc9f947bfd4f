"""Decoders that draft several tokens and let the target verify them in one call."""
