"""How the tests are shared out among the workers of pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

# Started once, for the tests of all these files: LiteLLM proxies, and a Prometheus.
_TOGETHER = {
    "proxies": (
        "tests/litellm/test_assist.py",
        "tests/litellm/test_proxy.py",
        "tests/litellm/test_proxy_errors.py",
        "tests/parity/test_parity.py",
    ),
    "prometheus": ("tests/observability/test_prometheus.py", "tests/observability/test_runbook.py"),
}
_SHARED = {file: name for name, files in _TOGETHER.items() for file in files}
# What takes longest comes first, so that no worker is left with it at the end: tests that wait for processes and
# deadlines. Not all that start LiteLLM's proxies at once.
_FIRST = (
    "tests/e2e/test_canary.py",
    *_TOGETHER["proxies"],
    "tests/e2e/",
    "tests/observability/",
    "tests/litellm/",
    "tests/cli/",
)


def rank(nodeid: str) -> int:
    """Return a test's place in the order in which files are handed out."""
    return next((place for place, begin in enumerate(_FIRST) if nodeid.startswith(begin)), len(_FIRST))


class SharingFiles(LoadScopeScheduling):  # type: ignore[misc]  # see the import
    """One worker runs a file's tests in order, and those of the files that share a server with it.

    ``xdist_group`` marks would say it too, but pytest-xdist 3.8.0 loses them with pytest 9.2 (2026-11).
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _SHARED.get(file, file)
