from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.resources import files

import pytest

import sfumato

# Each costs tens to hundreds of milliseconds or is an extra; none may load before it is used.
HEAVY = ("PIL", "aiohttp", "google", "httpx", "litellm", "msgspec", "opentelemetry", "pydantic", "redis", "starlette")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_public_names_are_listed_in_order_and_each_can_be_had() -> None:
    assert sfumato.__all__ == sorted(sfumato.__all__)
    assert dir(sfumato) == sorted([*sfumato.__all__, "__version__"])
    for name in sfumato.__all__:
        assert getattr(sfumato, name).__name__ == name


def test_the_version_is_the_distribution_s() -> None:
    assert sfumato.__version__ == importlib.metadata.version("sfumato")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sfumato.nothing  # noqa: B018  # reading the name is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, sfumato; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_domain_and_the_wire_load_no_pixels_and_no_server() -> None:
    heavy = ("PIL", "aiohttp", "httpx", "starlette", "litellm", "opentelemetry")
    code = (
        "import sys, sfumato.wire.openai_images, sfumato.wire.gemini, sfumato.images.resolution;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_the_package_is_typed() -> None:
    assert files("sfumato").joinpath("py.typed").is_file()
