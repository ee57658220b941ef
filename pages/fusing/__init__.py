"""What the page Fuse has of its own."""
