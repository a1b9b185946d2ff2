"""What the database's URL says beside the server's address is in force, and several hosts are tried in their order."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tenants.database.transactions import Database
from tenants.migrations import migrate
from tests.support.servers import free_port


def test_options_of_the_url_are_merged_with_ours(postgres_url: str) -> None:
    """They were dropped, so that every table went to `public`."""
    asking = Database(postgres_url)
    asking.write(lambda c: c.execute(text("CREATE SCHEMA lanes")))
    asking.close()
    database = Database(f"{postgres_url}&options=-c%20search_path%3Dlanes%20-cwork_mem=7MB")
    migrate(database)
    where = text("SELECT schemaname FROM pg_tables WHERE tablename = 'jobs'")
    assert database.read(lambda c: c.execute(where).all()) == [("lanes",)]
    for name, value in (("work_mem", "7MB"), ("enable_seqscan", "off"), ("statement_timeout", "30s")):
        assert database.read(lambda c, name=name: c.execute(text(f"SHOW {name}")).scalar_one()) == value  # type: ignore[misc]
    database.close()


def test_options_of_the_environment_are_merged_too(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB")
    database = Database(postgres_url)
    assert database.read(lambda c: c.execute(text("SHOW work_mem")).scalar_one()) == "6MB"
    assert not database.is_pooled
    database.close()


@pytest.mark.parametrize("form", ["libpq", "sqlalchemy"])
def test_the_second_host_is_asked_where_the_first_does_not_answer(postgres_url: str, form: str) -> None:
    credentials, _, rest = postgres_url.partition("@")
    place, _, name = rest.partition("/")
    nobody = f"127.0.0.1:{free_port()}"
    url = (
        f"{credentials}@{nobody},{place}/{name}"
        if form == "libpq"
        else f"{credentials}@/{name}&host={nobody}&host={place}"
    )
    database = Database(url)
    database.ping()
    database.close()


def test_what_the_url_says_of_the_connection_wins_over_our_defaults(postgres_url: str) -> None:
    database = Database(f"{postgres_url}&connect_timeout=17&application_name=lanes")
    with database.engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (parameters["connect_timeout"], parameters["application_name"]) == ("17", "lanes")
    database.close()
