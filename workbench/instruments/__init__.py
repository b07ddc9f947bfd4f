"""Taps on Hugging Face models: what happens inside one forward pass, without changing the model that others share."""
