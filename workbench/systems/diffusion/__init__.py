"""Masked-diffusion language models: how many tokens can be decided at once, and at what price."""
