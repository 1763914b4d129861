"""Generates the demo shop: products, photos, users and events, so that everything can be tried without data."""

from serve.demo.shop import make_shop

__all__ = ["make_shop"]
