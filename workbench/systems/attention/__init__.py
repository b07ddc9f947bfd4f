"""Papers that keep a few tokens and skip the rest, by what attention does with them."""
