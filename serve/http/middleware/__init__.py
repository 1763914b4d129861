"""HTTP middleware, one concern a module."""
