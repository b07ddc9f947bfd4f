"""Depth from two views, and how sure of it one may be."""
