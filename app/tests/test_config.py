"""The environment: defaults, what is refused, and that a refusal is clear and gives nothing away."""

from pathlib import Path

import pytest

from newsboard import create_app
from newsboard.config import ConfigError, Settings


def settings(**environ: str) -> Settings:
    """What the app makes of an environment."""
    return Settings.from_environ(environ, Path("/srv/instance"))


def test_nothing_needs_to_be_set() -> None:
    found = settings()
    assert str(found.database_url) == "sqlite:////srv/instance/newsboard.db"
    assert (found.page_size, found.title) == (30, "newsboard")


def test_a_title_is_shown(environ: dict[str, str]) -> None:
    client = create_app(environ | {"NEWSBOARD_TITLE": "The <Daily>"}).test_client()
    assert "The &lt;Daily&gt;" in client.get("/").text


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_uses_psycopg_3(scheme: str) -> None:
    url = settings(DATABASE_URL=f"{scheme}://u:p%40@h/db?sslmode=require").database_url
    assert url.drivername == "postgresql+psycopg"
    assert (url.password, url.query["sslmode"]) == ("p@", "require")


@pytest.mark.parametrize("value", ["0", "201", "-1", "3.5", "many", "1_0", " 5", "٣", "9" * 5_000])
def test_a_page_size_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="NEWSBOARD_PAGE_SIZE must be a whole number from 1 to 200"):
        settings(NEWSBOARD_PAGE_SIZE=value)


@pytest.mark.parametrize("name", ["DATABASE_URL", "NEWSBOARD_PAGE_SIZE", "NEWSBOARD_TITLE"])
def test_empty_is_not_the_default(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is set but empty"):
        settings(**{name: ""})


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mysql://u:hunter2@h/db",
        "postgresql+psycopg2://u:hunter2@h/db",
        "postgresql://u:hunter2@h:port/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=memory",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL ") as caught:
        create_app({"DATABASE_URL": url})
    assert "hunter2" not in str(caught.value)
