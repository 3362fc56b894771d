"""Work on pixels with Pillow, always in threads."""
