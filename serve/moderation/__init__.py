"""Content policy: which items may not be shown, and the image classifier hook."""
