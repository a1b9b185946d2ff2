"""A real WordPress for tests: Debian's packages, a MariaDB of its own, PHP's built-in server, all on loopback.

`running_wordpress` installs a fresh site in seconds and takes everything away again. The servers end with their
standard input, so that not even a kill -9 of the tests leaves one behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.servers import free_port

_CODE = Path("/usr/share/wordpress")
_CONTENT = Path("/var/lib/wordpress/wp-content")
_PROGRAMS = ("mariadbd", "mariadb-install-db", "php")
_PREFIX = "onelane-wordpress-"
# PHP's workers and MariaDB outlive a signal to their parent alone, so the whole group is reported.
_ENDS_WITH_INPUT = 'exec 3<&0; (cat <&3 >/dev/null; kill -TERM 0) & "$@" </dev/null 3<&-'
_START_SECONDS = 90.0

_CONFIG = """<?php
define('DB_NAME', 'wordpress'); define('DB_USER', 'root'); define('DB_PASSWORD', '');
define('DB_HOST', '127.0.0.1:{database_port}'); define('DB_CHARSET', 'utf8mb4'); define('DB_COLLATE', '');
define('WP_HOME', '{url}'); define('WP_SITEURL', '{url}');
define('WP_HTTP_BLOCK_EXTERNAL', true); define('DISABLE_WP_CRON', true); define('AUTOMATIC_UPDATER_DISABLED', true);
define('WP_ENVIRONMENT_TYPE', 'local'); define('WP_DEBUG', false);
foreach (['AUTH_KEY','SECURE_AUTH_KEY','LOGGED_IN_KEY','NONCE_KEY',
          'AUTH_SALT','SECURE_AUTH_SALT','LOGGED_IN_SALT','NONCE_SALT'] as $name) {{
    define($name, md5('tests' . $name));
}}
$table_prefix = 'wp_';
if (!defined('ABSPATH')) {{ define('ABSPATH', __DIR__ . '/'); }}
require_once ABSPATH . 'wp-settings.php';
"""

_ROUTER = """<?php
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$file = __DIR__ . '/wordpress' . $path;
if (is_dir($file) && is_file(rtrim($file, '/') . '/index.php')) { $file = rtrim($file, '/') . '/index.php'; }
if ($path !== '/' && is_file($file)) {
    if (substr($file, -4) !== '.php') { return false; }
    $_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = substr($file, strlen(__DIR__ . '/wordpress'));
    $_SERVER['SCRIPT_FILENAME'] = $file;
    chdir(dirname($file));
    require $file;
    return true;
}
$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = '/index.php';
require __DIR__ . '/wordpress/index.php';
"""

# Runs inside WordPress: makes users, or reports the posts under a slug, as a JSON line.
_TOOL = """<?php
require __DIR__ . '/wordpress/wp-load.php';
if ($argv[1] === 'user') {
    $id = wp_insert_user(['user_login' => $argv[2], 'user_pass' => $argv[3], 'user_email' => $argv[2] . '@blog.example',
                          'role' => $argv[4]]);
    if (is_wp_error($id)) { fwrite(STDERR, $id->get_error_message()); exit(1); }
} elseif ($argv[1] === 'links') {
    global $wp_rewrite;
    $wp_rewrite->set_permalink_structure('/%postname%/');
    $wp_rewrite->flush_rules(false);
} elseif ($argv[1] === 'end-sessions') {
    WP_Session_Tokens::get_instance(get_user_by('login', $argv[2])->ID)->destroy_all();
} elseif ($argv[1] === 'application-password') {
    $user = get_user_by('login', $argv[2]);
    echo WP_Application_Passwords::create_new_application_password($user->ID, ['name' => 'tests'])[0];
} elseif ($argv[1] === 'terms') {
    $names = wp_get_post_terms((int) $argv[2], ['category', 'post_tag'], ['fields' => 'names']);
    sort($names);
    echo json_encode($names);
} else {
    global $wpdb;
    echo json_encode($wpdb->get_results($wpdb->prepare(
        "SELECT ID AS id, post_name AS slug, post_status AS status, post_title AS title, post_content AS content
         FROM $wpdb->posts WHERE post_type = 'post' AND post_name LIKE %s AND post_status <> 'auto-draft' ORDER BY ID",
        $argv[2] . '%'), ARRAY_A));
}
"""


@dataclass(frozen=True, slots=True)
class WordPressSite:
    """A running site. `admin` and `password` sign in; more users come from `create_user`."""

    url: str
    folder: Path
    admin: str = "admin"
    password: str = "correct horse battery"

    @property
    def host(self) -> str:
        """What stands in the allowed hosts."""
        return urllib.parse.urlsplit(self.url).netloc

    def create_user(self, username: str, password: str, role: str = "author") -> None:
        self._tool("user", username, password, role)

    def application_password(self, username: str) -> str:
        """A new password for programs, with which the REST interface can be used."""
        return self._tool("application-password", username)

    def end_sessions(self, username: str) -> None:
        """End all of a user's sessions at the site; their cookies are dead then."""
        self._tool("end-sessions", username)

    @contextlib.contextmanager
    def classic_editor(self, wanted: bool) -> Iterator[None]:
        """The classic editor for everybody, as its plugin gives it; False leaves the block editor."""
        plugin = self.folder / "wordpress/wp-content/mu-plugins/classic.php"
        if wanted:
            plugin.parent.mkdir(exist_ok=True)
            plugin.write_text("<?php add_filter('use_block_editor_for_post', '__return_false');")
        try:
            yield
        finally:
            plugin.unlink(missing_ok=True)

    def posts(self, slug: str) -> list[dict[str, str]]:
        """All posts whose slug begins so, drafts too: `{id, slug, status, title, content}`, oldest first."""
        found: list[dict[str, str]] = json.loads(self._tool("posts", slug))
        return found

    def terms(self, post_id: str) -> list[str]:
        """The names of a post's categories and tags, sorted."""
        names: list[str] = json.loads(self._tool("terms", post_id))
        return names

    def _tool(self, *arguments: str) -> str:
        command = ["php", str(self.folder / "tool.php"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, f"{arguments[0]}: {done.stderr or done.stdout}"
        return done.stdout


def missing_parts() -> list[str]:
    """What this machine lacks to run WordPress."""
    lacking = [name for name in _PROGRAMS if _program(name) is None]
    return lacking + [str(path) for path in (_CODE / "wp-settings.php", _CONTENT) if not path.exists()]


@contextlib.contextmanager
def running_wordpress() -> Iterator[WordPressSite]:
    """A freshly installed site with an administrator; gone at the end of the block."""
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)
    database_port, web_port = free_port(), free_port()
    site = WordPressSite(f"http://127.0.0.1:{web_port}", folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _lay_out(folder, site.url, database_port)
        database = stack.enter_context(_server(_database_command(folder, database_port), folder / "mariadb.log"))
        _wait(lambda: _created_database(folder, database_port), database, folder / "mariadb.log")
        php = ["php", "-d", "opcache.enable_cli=1", "-S", f"127.0.0.1:{web_port}", "-t", str(folder / "wordpress")]
        web = stack.enter_context(_server([*php, str(folder / "router.php")], folder / "php.log"))
        _wait(lambda: _answers(site.url), web, folder / "php.log")
        _install(site)
        yield site


def wordpress_or_skip() -> None:
    """Skip with what is missing; where tests run for everybody (CI) that is a failure.

    `CI=true` decides, so that a missing package can never turn the tests quietly green.
    """
    lacking = missing_parts()
    if not lacking:
        return
    reason = f"WordPress cannot run here: {', '.join(lacking)} missing (Debian: mariadb-server wordpress php-mysql …)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _remove_leftovers() -> None:
    """Folders of runs that were killed; 300 MB each are worth a look."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


def _lay_out(folder: Path, url: str, database_port: int) -> None:
    copy = ["cp", "-rL", "--reflink=auto"]
    # Debian's tree has links into packages that need not be there; what they would give is not used.
    subprocess.run([*copy, str(_CODE), str(folder / "wordpress")], check=False, capture_output=True, timeout=150)
    subprocess.run(
        [*copy, f"{_CONTENT}/.", str(folder / "wordpress/wp-content")], check=False, capture_output=True, timeout=150
    )
    (folder / "wordpress/wp-config.php").write_text(_CONFIG.format(url=url, database_port=database_port))
    (folder / "router.php").write_text(_ROUTER)
    (folder / "tool.php").write_text(_TOOL)
    install = [str(_program("mariadb-install-db")), "--no-defaults", f"--datadir={folder}/data", "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
    if os.geteuid() == 0:
        install.append("--user=root")
    done = subprocess.run(install, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, f"mariadb-install-db: {done.stdout}{done.stderr}"


def _database_command(folder: Path, port: int) -> list[str]:
    command = [str(_program("mariadbd")), "--no-defaults", f"--datadir={folder}/data", f"--port={port}"]
    command += ["--bind-address=127.0.0.1", f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid"]
    command += ["--skip-log-bin", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2"]
    return [*command, "--user=root"] if os.geteuid() == 0 else command


@contextlib.contextmanager
def _server(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own, which ends when its standard input does: with us, at the latest."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", _ENDS_WITH_INPUT, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, "PHP_CLI_SERVER_WORKERS": "4"},
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        _wait_for_group(process.pid)
        process.wait(timeout=60)


def _wait_for_group(group: int) -> None:
    until = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            alive = [each for each in psutil.process_iter(["status"]) if _in_group(each, group)]
            if all(each.info["status"] == psutil.STATUS_ZOMBIE for each in alive):
                return
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


def _in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False


def _wait(ready: object, process: subprocess.Popen[bytes], log: Path) -> None:
    assert callable(ready)
    until = time.monotonic() + _START_SECONDS
    while not ready():
        reported = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}: {reported}"
        assert time.monotonic() < until, f"{process.args!r} was not ready in {_START_SECONDS:g} s: {reported}"
        time.sleep(0.05)


def _created_database(folder: Path, port: int) -> bool:
    code = (
        f"mysqli_report(MYSQLI_REPORT_OFF); $c = @new mysqli('127.0.0.1', 'root', '', '', {port});"
        "exit(!$c->connect_error && $c->query('CREATE DATABASE IF NOT EXISTS wordpress') ? 0 : 1);"
    )
    return subprocess.run(["php", "-r", code], capture_output=True, timeout=60, check=False).returncode == 0


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/wp-includes/version.php", timeout=30).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def _install(site: WordPressSite) -> None:
    wizard = {
        "weblog_title": "Test site",
        "user_name": site.admin,
        "admin_password": site.password,
        "admin_password2": site.password,
        "admin_email": "admin@blog.example",
        "blog_public": "0",
        "language": "",
    }
    data = urllib.parse.urlencode(wizard).encode()
    with urllib.request.urlopen(f"{site.url}/wp-admin/install.php?step=2", data=data, timeout=150) as answer:  # noqa: S310
        page = answer.read().decode(errors="replace")
    assert "wp-login.php" in page, f"WordPress was not installed: {page[-2000:]}"
    site._tool("links")


if __name__ == "__main__":  # a site to look at by hand, until Enter
    with running_wordpress() as shown:
        print(f"{shown.url}/wp-admin/ as {shown.admin} / {shown.password}")
        sys.stdin.readline()
