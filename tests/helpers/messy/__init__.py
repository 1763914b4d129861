"""Rows of the table of messy inputs: how a file is sent, and what must come of it."""
