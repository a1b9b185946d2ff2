"""Settings: where they come from, which one wins, and that every fault is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.local.up import as_environment
from orchestrator.settings import Settings, SettingsError
from tenants.database.transactions import Database
from tests import ROOT


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_put_sqlite_into_the_data_directory(tmp_path: Path) -> None:
    settings = Settings.load()
    assert settings.data_dir == tmp_path / ".onelane"
    assert settings.database_url == f"sqlite:///{tmp_path}/.onelane/onelane.db"
    assert (settings.port, settings.demo_blog_port, settings.offline_model_port) == (8700, 8701, 8702)
    assert settings.lanes is None


def test_environment_beats_dotenv_beats_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onelane.toml").write_text('port = 1001\nthreads = 3\nprocesses = 2\nallowed_hosts = ["a", "b"]\n')
    (tmp_path / ".env").write_text("ONELANE_PORT=1002\nONELANE_THREADS=5\nOTHER_PROGRAM=1\n")
    monkeypatch.setenv("ONELANE_PORT", "1003")
    settings = Settings.load()
    assert (settings.port, settings.threads, settings.processes) == (1003, 5, 2)
    assert settings.allowed_hosts == ("a", "b")
    assert Settings.load(port=1004, threads=None).port == 1004


def test_lists_are_comma_separated_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_ALLOWED_HOSTS", "blog.internal:8080, 10.0.0.0/8")
    monkeypatch.setenv("ONELANE_LANES", '["publish"]')
    settings = Settings.load()
    assert settings.allowed_hosts == ("blog.internal:8080", "10.0.0.0/8")
    assert settings.lanes == ("publish",)


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "ONELANE_GEMINI_API_KEY"])
def test_gemini_key_goes_by_its_usual_name_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "the-key")
    key = Settings.load().gemini_api_key
    assert key is not None
    assert key.get_secret_value() == "the-key"


def test_gemini_key_is_read_from_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEMINI_API_KEY=from-file\n")
    key = Settings.load().gemini_api_key
    assert key is not None
    assert key.get_secret_value() == "from-file"


def test_all_faults_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_PORT", "seven")
    monkeypatch.setenv("ONELANE_REDIS_URL", "localhost:6379")
    monkeypatch.setenv("ONELANE_DATABASE_URL", "mysql://x")
    monkeypatch.setenv("ONELANE_SECRET_KEY", "short")
    monkeypatch.setenv("ONELANE_DATA_DIRR", "/data")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    for part in ("ONELANE_PORT", "redis://", "sqlite:///", "24 characters", "did you mean ONELANE_DATA_DIR?"):
        assert part in text
    assert "short" not in text


def test_unknown_names_in_files_are_faults(tmp_path: Path) -> None:
    (tmp_path / "onelane.toml").write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="did you mean port"):
        Settings.load()
    (tmp_path / "onelane.toml").unlink()
    (tmp_path / ".env").write_text("ONELANE_THREDS=1\n")
    with pytest.raises(SettingsError, match="did you mean threads"):
        Settings.load()


def test_a_broken_or_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onelane.toml").write_text("port = \n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        Settings.load()
    monkeypatch.setenv("ONELANE_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        Settings.load()


def test_no_secret_shows_in_the_text_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("ONELANE_REDIS_URL", "redis://:hunter2@host")
    monkeypatch.setenv("ONELANE_ADMIN_KEY", "hunter2-hunter2-hunter2-hunter2")
    settings = Settings.load()
    assert settings.database_url == "postgresql://user:hunter2@host/db"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


def test_missing_settings_are_named() -> None:
    names = ("admin_key", "secret_key", "redis_url")
    reported = [line.split()[0] for line in Settings.load().missing(*names)]
    assert reported == ["ONELANE_ADMIN_KEY", "ONELANE_SECRET_KEY", "ONELANE_REDIS_URL"]
    assert Settings.load(admin_key="k" * 32, secret_key="s" * 32, redis_url="redis://h").missing(*names) == []


def test_a_set_browser_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(chromium=tmp_path / "chrome").find_chromium() == tmp_path / "chrome"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "browsers"))
    assert Settings.load().find_chromium() is None
    downloaded = tmp_path / "browsers" / "chromium_headless_shell-1200" / "chrome-linux" / "headless_shell"
    downloaded.parent.mkdir(parents=True)
    downloaded.touch()
    assert Settings.load().find_chromium() == downloaded


def test_the_readme_names_every_setting() -> None:
    text = (ROOT / "README.md").read_text()
    usual = {"gemini_api_key": "GEMINI_API_KEY", "gemini_base_url": "GOOGLE_GEMINI_BASE_URL"}
    absent = [name for name in Settings.model_fields if f"`{usual.get(name, 'ONELANE_' + name.upper())}`" not in text]
    assert absent == []


@pytest.mark.parametrize(
    "url",
    [
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=1",
        "rediss://u:p%40%2F@a:1/2?ssl_ca_certs=/etc/ca.pem",
        "redis://[::1]:6379",
        "redis+cluster://u:p@a:1,b:2",
        "redis+cluster://u:p%40%25@a:1,[::1]:2/0",
        "rediss+cluster://a",
        "rediss+cluster://a,b?ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_a_redis_url_may_name_a_socket_or_a_cluster(url: str) -> None:
    assert Settings.load(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("http://hunter2@a", r"must start with one of redis://, .*redis\+cluster://"),
        ("redis+cluster://u:hunter2@a:1,,b:2", "names no host, or has a comma too many"),
        ("redis+cluster://u:hunter2@a:1/3", "a cluster has only database 0"),
        ("redis://:hunter2/x@a", "percent-encode"),
        ("redis://:hunter2#x@a", "percent-encode"),
        ("redis://:hunter2@x@a", "percent-encode"),
        ("redis://:hunter2", "each host must be like host:port"),
        ("redis://a:hunter2", "each host must be like host:port"),
        ("redis://a:0", "each host must be like host:port"),
        ("redis://a/hunter2", "only the database's number"),
        ("redis://a?hunter2=1", "that redis-py does not take"),
        ("redis://a?db=hunter2", "that redis-py does not take"),
        ("unix:///a?hunter2=1", "that redis-py does not take"),
        ("redis://a?ssl_ca_certs=hunter2", "that redis-py does not take"),
        ("redis+cluster://a,b?hunter2=1", "that redis-py does not take"),
    ],
)
def test_a_wrong_redis_url_is_reported_without_its_password(url: str, reported: str) -> None:
    with pytest.raises(SettingsError, match=reported) as caught:
        Settings.load(redis_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40%2F@h:5432/name",
        "postgres://u@h",
        "postgresql+psycopg2://u@[::1]:1/name?sslmode=require",
        "postgresql://u:p/with/slash@h/name",
        "postgresql:///name?host=/var/run/postgresql",
        "postgresql://u:p@h1:5432,h2:5433/name?target_session_attrs=read-write",
        "postgresql://u:p@/name?host=h1:5432&host=h2:5433",
        "postgresql://h/name?options=-c%20search_path%3Dlanes%20--work_mem%3D8MB",
        "sqlite:///a%3Fb.db",
    ],
)
def test_a_database_url_is_read_by_sqlalchemys_rules(url: str) -> None:
    assert Settings.load(database_url=url).database_url == url


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("mysql://hunter2@h", "must start with sqlite:/// or postgresql://"),
        ("hunter2", "must start with sqlite:/// or postgresql://"),
        ("postgresql://u:hunter@2@h/name", "more than one @"),
        ("postgresql://u:hunter2@x/y@h/name", "more than one @"),
        ("postgresql://u/hunter2@h/name", "it has an @ where none is allowed"),
        ("postgresql://u:hunter2", "percent-encode"),
        ("postgresql://u:hun ter2@h", "a space"),
        ("postgresql://u@h:hunter2/name", "percent-encode"),
        ("postgresql://u@h:99999/name", "port must be a number from 1 to 65535"),
        ("postgresql://u@hun;ter2/name", "percent-encode"),
        ("postgresql://u@h1,h2/name?host=h3", "names hosts or ports twice"),
        ("postgresql://u@h/name?hunter2=1", "no connection parameter"),
        ("postgresql://u@h/name?hunter2", "name=value"),
        ("postgresql://u@h/name?sslmode=a&sslmode=b", "sslmode twice"),
        ("postgresql://u@h/name?options=-c%20statement_timeout%3D1", "statement_timeout, which onelane sets itself"),
        ("postgresql://u@h/name?options=-f%20hunter2", "only -c name=value"),
        ("sqlite:///x.db?mode=ro", "no options"),
        ("sqlite://", "must be like sqlite:///file.db"),
        ("sqlite:///:memory:", "must name a file"),
    ],
)
def test_a_wrong_database_url_is_a_fault_that_shows_nothing_of_it(url: str, reported: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^the settings are wrong:\n  - ONELANE_DATABASE_URL: .*{reported}"
    ) as caught:
        Settings.load(database_url=url)
    for piece in ("hunter", "hun", "ter2"):
        assert piece not in str(caught.value)


def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50%25 ? #1@home"
    database = Database(Settings.load(data_dir=folder).database_url)
    assert database.url.database == f"{folder}/onelane.db"
    database.close()


def test_a_dotenv_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ONELANE_PORT=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env: it is not UTF-8 text"):
        Settings.load()
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"\.env cannot be read: Is a directory"):
        Settings.load()


ALERT_URLS = ("json://robot:hunter2@127.0.0.1:9/hunter2/path", "mailto://user:hunter2@example.com?to=a@b.c,d@e.f")


@pytest.mark.parametrize("form", [" ".join(ALERT_URLS), ", ".join(ALERT_URLS), json.dumps(ALERT_URLS)])
def test_alert_urls_come_in_one_variable(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma within a URL does not part it."""
    monkeypatch.setenv("ONELANE_ALERT_URLS", form)
    settings = Settings.load()
    assert tuple(url.get_secret_value() for url in settings.alert_urls) == ALERT_URLS
    assert "hunter2" not in repr(settings)


def test_a_wrong_alert_url_is_reported_by_place_and_kind_with_other_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_ALERT_URLS", "json://127.0.0.1:9/x slack://hunter2 nosuch://hunter2@host")
    monkeypatch.setenv("ONELANE_ALERTS_PER_HOUR", "0")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    text = str(caught.value)
    assert len(caught.value.faults) == 2
    assert "number 2 (slack)" in text
    assert "number 3 (nosuch)" in text
    assert "ONELANE_ALERTS_PER_HOUR" in text
    assert "hunter2" not in text
    assert Settings.load(check_alert_urls=False, alerts_per_hour=1).alert_urls, "for commands that send nothing"


def test_alert_urls_reach_a_child_as_they_are() -> None:
    environment = as_environment(Settings.load(alert_urls=list(ALERT_URLS)))
    assert json.loads(environment["ONELANE_ALERT_URLS"]) == list(ALERT_URLS)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://user:hunter2/x@host", "http://host:99999", "http://host:0"]
)
def test_an_address_that_is_none_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="ONELANE_URL: it must be like http://host:port") as caught:
        Settings.load(url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["ключ", "a\nb", "k\x00"])
def test_a_key_that_fits_no_header_is_reported(key: str) -> None:
    with pytest.raises(SettingsError, match="ONELANE_API_KEY: a key has only printable ASCII"):
        Settings.load(api_key=key)
