"""Audiences and generated copy."""
