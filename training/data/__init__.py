"""Readers of labelled photos."""
