"""`python -m tests.benchmarks.compare`: sfumato and LiteLLM's native route side by side, in one run."""
