"""The way to Google: transport, accounts, retries."""
