"""Settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from gramserve.errors import InvalidInput, Reason
from gramserve.settings import CommaSeparated, SharedSettings, load, table


class ServiceSettings(SharedSettings):
    """As a service would define its own."""

    model_config = SettingsConfigDict(
        env_prefix="GRAMSERVE_GATEWAY_", frozen=True, extra="ignore", populate_by_name=True
    )

    port: int = Field(default=1, ge=0, description="A number.")
    roots: CommaSeparated = Field(default=("/a", "/b"), description="A list.")

    @model_validator(mode="after")
    def _port_is_not_13(self) -> ServiceSettings:
        if self.port == 13:
            raise ValueError("port must not be 13")
        return self


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("GRAMSERVE_"):
            monkeypatch.delenv(name)


def test_without_an_environment_the_defaults_hold() -> None:
    settings = load(ServiceSettings)
    assert settings.port == 1
    assert settings.roots == ("/a", "/b")
    assert settings.lease_s == 30.0


def test_the_environment_wins_over_defaults_and_an_argument_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRAMSERVE_GATEWAY_PORT", "7")
    monkeypatch.setenv("GRAMSERVE_LEASE_S", "5")
    assert load(ServiceSettings).port == 7
    assert load(ServiceSettings).lease_s == 5.0
    assert load(ServiceSettings, port=9, lease_s=2.0).port == 9
    assert load(ServiceSettings, port=9, lease_s=2.0).lease_s == 2.0


@pytest.mark.parametrize(
    ("text", "values"), [("", ()), ("/x", ("/x",)), ("/x,/y", ("/x", "/y")), (" /x , /y ,", ("/x", "/y"))]
)
def test_a_list_is_written_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, values: tuple[str, ...]) -> None:
    monkeypatch.setenv("GRAMSERVE_GATEWAY_ROOTS", text)
    assert load(ServiceSettings).roots == values


def test_an_unknown_name_with_our_prefix_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAMSERVE_GATEWAY_PROT", "7")
    with pytest.raises(InvalidInput, match="GRAMSERVE_GATEWAY_PROT; did you mean GRAMSERVE_GATEWAY_PORT") as caught:
        load(ServiceSettings)
    assert caught.value.reason is Reason.INVALID_SETTINGS


def test_an_unknown_name_near_nothing_points_to_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAMSERVE_X", "7")
    with pytest.raises(InvalidInput, match=r"docs/settings\.md"):
        load(ServiceSettings)


def test_the_value_of_an_unknown_name_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAMSERVE_GATEWAY_PASSWORD", "hunter2")
    with pytest.raises(InvalidInput) as caught:
        load(ServiceSettings)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("name", ["GRAMSERVE_WORKER_ANYTHING", "GRAMSERVE_OPTIMIZER_ANYTHING", "GRAMSERVE_TEST_REDIS"])
def test_names_of_other_services_are_theirs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    load(ServiceSettings)


@pytest.mark.parametrize(("name", "value"), [("GRAMSERVE_GATEWAY_PORT", "many"), ("GRAMSERVE_LEASE_S", "0")])
def test_a_value_that_cannot_be_is_refused_by_name_without_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as caught:
        load(ServiceSettings)
    assert caught.value.reason is Reason.INVALID_SETTINGS
    assert len(caught.value.violations) == 1
    assert caught.value.violations[0][0] == name
    assert value not in caught.value.message.replace("greater than 0", "").split()


def test_settings_that_do_not_go_together_are_refused_with_the_words_of_the_rule() -> None:
    with pytest.raises(InvalidInput, match=r"^settings cannot be used: port must not be 13$"):
        load(ServiceSettings, port=13)


def test_an_argument_that_is_no_setting_is_refused() -> None:
    with pytest.raises(InvalidInput, match="prot"):
        load(ServiceSettings, prot=7)


def test_settings_do_not_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        load(ServiceSettings).port = 2


def test_the_table_has_every_setting_with_its_name_default_and_meaning() -> None:
    rows = {row.name: row for row in table(ServiceSettings)}
    assert rows["GRAMSERVE_GATEWAY_PORT"].default == "1"
    assert rows["GRAMSERVE_GATEWAY_ROOTS"].default == "/a,/b"
    assert rows["GRAMSERVE_STORE_URL"].default
    assert all(row.description for row in rows.values())
    assert len(rows) == len(ServiceSettings.model_fields)
