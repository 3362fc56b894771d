"""The cache: pictures by fingerprint, behind one small store protocol."""
