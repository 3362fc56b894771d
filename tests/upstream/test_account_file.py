from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigurationError
from sfumato.settings import DEFAULT_API_BASE, load_settings
from sfumato.upstream.account_file import AccountRow, build_accounts, load, parse
from sfumato.upstream.accounts import Account

EXAMPLE = """
[[accounts]]
label = "a"
key = " secret-a "
weight = 2
rpm = 60

[[accounts]]
label = "b"
key_env = "KEY_B"
api_base = "https://gateway.example/gemini/v1"

[[accounts]]
label = "vx"
project = "example.com:my-project"
location = "us-central1"
credentials_file = "keys/sa.json"

[[accounts]]
label = "adc"
project = "my-project"
"""
ENVIRON = {"KEY_B": "secret-b\n"}


def rows(text: str, **environ: str) -> tuple[AccountRow, ...]:
    return parse(text, directory=Path("/etc/sfumato"), environ=environ or ENVIRON)


def refusal(text: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        rows(text, **environ)
    message = caught.value.message
    assert message.startswith("GEMINI_IMAGE_ACCOUNTS_FILE: ")
    assert "secret" not in message
    assert "/etc" not in message
    return message


def one(**fields: object) -> str:
    """Write a file of one account; values are TOML."""
    return "[[accounts]]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items())


def test_an_account_is_a_key_or_a_project() -> None:
    a, b, vx, adc = rows(EXAMPLE)
    assert a.key is not None
    assert a.key.get_secret_value() == "secret-a"
    assert (a.label, a.weight, a.rpm, a.project) == ("a", 2.0, 60, None)
    assert b.key is not None
    assert b.key.get_secret_value() == "secret-b"
    assert (b.api_base, b.weight, b.rpm) == ("https://gateway.example/gemini/v1", 1.0, None)
    assert (vx.key, vx.project, vx.location) == (None, "example.com:my-project", "us-central1")
    assert vx.credentials_file == Path("/etc/sfumato/keys/sa.json")
    assert (adc.location, adc.credentials_file) == ("global", None)


def test_an_absolute_credentials_file_stays_where_it_is() -> None:
    (row,) = rows(one(label='"vx"', project='"p"', credentials_file='"/run/secrets/sa.json"'))
    assert row.credentials_file == Path("/run/secrets/sa.json")


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(rows(EXAMPLE))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no [[accounts]]"),
        ("accounts = []", "no [[accounts]]"),
        ("accounts = 'secret'", "no [[accounts]]"),
        ("accounts = ['secret']", "no [[accounts]]"),
        ("[[acounts]]\nlabel = 'a'", "'acounts' is unknown. Did you mean 'accounts'?"),
        ("[[accounts]]\nlabel = 'a'\nkey = secret", "not valid TOML at line 3, column 7"),
        ("[[accounts]]\nlabel = 'a'\nkey = 'secret", "not valid TOML at"),
        ("[[accounts]]\nkey = 'secret'", "account number 1 needs a 'label'"),
        (one(label='"a b"', key='"secret"'), "account number 1 needs a 'label'"),
        (one(label="7", key='"secret"'), "account number 1 needs a 'label'"),
        (one(label='"a"'), "account 'a': it needs one of 'key', 'key_env' and 'project'"),
        (one(label='"a"', key='"secret"', project='"p"'), "account 'a': it needs one of"),
        (one(label='"a"', key='"secret"', key_env='"X"'), "account 'a': it needs one of"),
        (one(label='"a"', key='"secret"', location='"eu"'), "account 'a': 'location' goes with 'project' only"),
        (one(label='"a"', key='"secret"', credentials_file='"x"'), "'credentials_file' goes with 'project' only"),
        (one(label='"a"', key='" "'), "account 'a': 'key' must be a text that is not empty"),
        (one(label='"a"', key="12345"), "account 'a': 'key' must be a text that is not empty"),
        (one(label='"a"', key_env='"ABSENT"'), "account 'a': the variable ABSENT that 'key_env' names is not set"),
        (one(label='"a"', key='"secret"', api_base='"ftp://secret"'), "account 'a': 'api_base' must be http(s)://host"),
        (one(label='"a"', key='"secret"', api_base="7"), "account 'a': 'api_base' must be http(s)://host"),
        (one(label='"a"', key='"secret"', weigth="2"), "account 'a': 'weigth' is unknown. Did you mean 'weight'?"),
        (one(label='"a"', key='"x"') + "\n" + one(label='"a"', key='"y"'), "'a': another account has this label"),
        (one(label='"a"', key='"x"') + "\n" + one(label='"b"', key='" x"'), "'b': account 'a' has the same key"),
        (
            one(label='"a"', project='"p"') + "\n" + one(label='"b"', project='"p"', location='"global"'),
            "'b': account 'a' has the same project and location, and with it the same quota",
        ),
        ("accounts = " + "[" * 3000, "the file has a value that is too long or too deep"),
        (one(label='"a"', key='"secret"', rpm="1" * 5000), "the file has a value that is too long or too deep"),
    ],
)
def test_what_is_wrong_is_named_without_being_repeated(text: str, told: str) -> None:
    assert told in refusal(text)


@pytest.mark.parametrize(
    "weight", ["0", "-1", "nan", "inf", "true", '"2"', "1e-320", "0.0009", "1000001", "1e308", "1" + "0" * 400]
)
def test_a_weight_is_a_number_that_can_be_reckoned_with(weight: str) -> None:
    told = "account 'a': 'weight' must be a number from 0.001 to 1000000"
    assert told in refusal(one(label='"a"', key='"k"', weight=weight))


@pytest.mark.parametrize("weight", ["0.001", "1000000", "2"])
def test_weights_up_to_the_bounds_are_taken(weight: str) -> None:
    (row,) = rows(one(label='"a"', key='"k"', weight=weight))
    assert row.weight == float(weight)


@pytest.mark.parametrize("rpm", ["0", "-1", "1.5", "true", '"60"', "1000001", "1" + "0" * 400])
def test_an_rpm_is_an_integer_from_1(rpm: str) -> None:
    assert "account 'a': 'rpm' must be an integer from 1 to 1000000" in refusal(one(label='"a"', key='"k"', rpm=rpm))


def test_one_project_in_two_locations_has_two_quotas() -> None:
    text = one(label='"a"', project='"p"') + "\n" + one(label='"b"', project='"p"', location='"eu"')
    assert [row.location for row in rows(text)] == ["global", "eu"]


def test_a_mark_at_the_start_of_the_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    path.write_bytes(b"\xef\xbb\xbf" + one(label='"a"', key='"k"').encode())
    (row,) = load(path, environ={})
    assert row.label == "a"


def test_a_variable_that_is_empty_is_not_set() -> None:
    assert "KEY_B" in refusal(one(label='"b"', key_env='"KEY_B"'), KEY_B="  ")


def test_a_file_that_cannot_be_read_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "hidden.toml").write_bytes(b"\xff")
    for name, reason in (("absent.toml", "ENOENT"), ("", "EISDIR"), ("hidden.toml", "not UTF-8")):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            load(tmp_path / name, environ={})
        assert str(tmp_path) not in caught.value.message


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "accounts.toml"
    path.write_text(text)
    return path


def built(**values: Any) -> tuple[Account, ...]:
    return build_accounts(load_settings(**values), ENVIRON)


def test_variables_and_file_are_one_pool(tmp_path: Path) -> None:
    keys = EXAMPLE.partition('[[accounts]]\nlabel = "vx"')[0]
    accounts = built(api_key="k", api_keys="x:kx", accounts_file=written(tmp_path, keys))
    assert [account.label for account in accounts] == ["default", "x", "a", "b"]
    assert [account.base for account in accounts] == [DEFAULT_API_BASE] * 3 + ["https://gateway.example/gemini"]
    assert [account.version for account in accounts] == ["v1beta"] * 3 + ["v1"]
    assert [(account.weight, account.rpm) for account in accounts] == [(1, None), (1, None), (2, 60), (1, None)]
    assert {account.backend for account in accounts} == {"gemini"}


def test_without_anything_there_is_no_account() -> None:
    assert built() == ()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (one(label='"default"', key='"k2"'), "account 'default': another account has this label"),
        (one(label='"x"', key='"k2"'), "account 'x': another account has this label"),
        (one(label='"y"', key='"kx"'), "account 'y': account 'x' of GEMINI_API_KEYS has the same key"),
        (one(label='"y"', key='"k"'), "account 'y': account 'default' of GEMINI_API_KEY has the same key"),
    ],
)
def test_labels_and_keys_differ_from_those_of_the_variables(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        built(api_key="k", api_keys="x:kx", accounts_file=written(tmp_path, row))
    assert told in caught.value.message


def test_one_key_in_both_variables_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        built(api_key="secret", api_keys="x:kx,b:secret")
    assert caught.value.message.startswith("GEMINI_API_KEYS: account 'b' has the key of GEMINI_API_KEY")
    assert "secret" not in caught.value.message


def test_a_key_that_no_header_can_hold_is_refused_by_its_label(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="account 'a'") as caught:
        built(accounts_file=written(tmp_path, one(label='"a"', key='"sec ret"')))
    assert "sec ret" not in caught.value.message


def test_a_project_becomes_an_account_of_vertex_ai(tmp_path: Path) -> None:
    row = one(label='"vx"', project='"my-project"', location='"us-central1"', weight="3", rpm="5")
    (vertex,) = built(api_base="https://gateway.example", accounts_file=written(tmp_path, row))
    assert (vertex.backend, vertex.weight, vertex.rpm) == ("vertex", 3.0, 5)
    assert vertex.resource == "projects/my-project/locations/us-central1/publishers/google/"
    # The configured base is the Gemini API's; another one for Vertex AI stands in the file.
    assert vertex.server == "us-central1-aiplatform.googleapis.com"
    (private,) = built(accounts_file=written(tmp_path, row + '\napi_base = "http://127.0.0.1:9"'))
    assert private.server == "127.0.0.1:9"


@pytest.mark.parametrize("wrong", [{"project": '"Secret/../x"'}, {"location": '"secret.example/"'}])
def test_a_project_that_can_be_none_is_refused_by_its_label(tmp_path: Path, wrong: dict[str, str]) -> None:
    row = one(**{"label": '"vx"', "project": '"p1"', **wrong})
    with pytest.raises(ConfigurationError, match="'vx'") as caught:
        built(accounts_file=written(tmp_path, row))
    assert "ecret" not in caught.value.message
