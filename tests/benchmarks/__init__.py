"""Measurements of what the project promises. Each module is a command; none of them runs with the tests."""
