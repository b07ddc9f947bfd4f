"""Mixtures of experts: which expert takes which token, what it costs, and who is dropped."""
