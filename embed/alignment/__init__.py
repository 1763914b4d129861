"""Query adapters: how texts and photos are mapped into the image space, learned from the shop's catalogue."""
