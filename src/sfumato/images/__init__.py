"""The domain: what a picture request is and what it resolves to. Pure: no I/O, clock or randomness."""
