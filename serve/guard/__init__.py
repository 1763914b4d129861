"""What stands between the internet and the shop: keys and their scopes, rates, content review, the audit log."""
