"""Releases on disk, snapshots of a release with live changes, and A/B assignment."""
