"""The fixtures give real, empty servers."""

from __future__ import annotations

from pathlib import Path

import redis
from sqlalchemy import create_engine, inspect, text

from tests.support.servers import start_valkey


def test_each_test_gets_an_empty_valkey(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.info("server")["server_name"] == "valkey"


def test_each_test_gets_an_empty_database(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
        connection.execute(text("CREATE TABLE seen (id INTEGER)"))
    engine.dispose()


def test_a_server_of_ones_own_can_be_stopped(tmp_path: Path) -> None:
    server = start_valkey(tmp_path, "--appendonly", "yes")
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    server.stop()
    assert server.process.poll() is not None
