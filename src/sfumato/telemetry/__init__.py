"""What operators see: the request log, traces and metrics."""
