"""Instrumented implementations: one paper, one file, grouped by family."""
