"""The demo shop: products and shoppers made up by rule, so that the whole journey runs without any data."""

from serve.demo.shop import make_shop

__all__ = ["make_shop"]
