"""What a shopper will want next: sources propose candidates, a learned blend orders them."""
