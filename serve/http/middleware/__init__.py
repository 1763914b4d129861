"""HTTP middleware, one concern a module; `stack` composes it."""
