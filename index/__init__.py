"""Vector and keyword indexes over item indices and opaque spaces; imports nothing of embed or serve."""
