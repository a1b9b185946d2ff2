"""A user's project may have modules named like our packages: what collides is found and named, in every form."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from onelane.collisions import OURS
from tests import ROOT
from tests.support.running import environment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

USES_THE_BROKER = "from tenants.queues import TenantBroker\n"


def write(folder: Path, name: str, form: str) -> Path:
    """A module or a package of that name in the folder; gives back its file."""
    if form == "module":
        file = folder / f"{name}.py"
    else:
        (folder / name).mkdir()
        file = folder / name / "__init__.py"
    file.write_text("")
    return file


def run(command: list[str | Path], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=150, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with onelane's wheel and the libraries of this one; gives back its folder of programs."""
    home = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
    subprocess.run(build, cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    (packages,) = (home / "venv").glob("lib/python3*/site-packages")
    zipfile.ZipFile(next(home.glob("*.whl"))).extractall(packages)
    libraries = {Path(str(distribution(name).locate_file(""))).resolve() for name in ("dramatiq", "redis", "typer")}
    # The libraries come by a path of their own; this checkout, which is installed there as well, must not come along.
    links = home / "libraries"
    links.mkdir()
    for folder in libraries:
        for each in folder.iterdir():
            if not each.name.endswith(".pth") and not (links / each.name).exists():
                (links / each.name).symlink_to(each)
    (packages / "libraries.pth").write_text(f"{links}\n")
    return home / "venv" / "bin"


@pytest.mark.parametrize("form", ["module", "package"])
@pytest.mark.parametrize("name", OURS)
def test_the_service_names_what_hides_its_packages(name: str, form: str, installed: Path, tmp_path: Path) -> None:
    file = write(tmp_path, name, form)
    program = "from onelane.program import main; main()"
    forms: tuple[tuple[list[str | Path], dict[str, str]], ...] = (
        ([installed / "python", "-c", program, "doctor"], {}),  # the working directory comes first
        ([installed / "python", "-P", "-c", program, "doctor"], {"PYTHONPATH": str(tmp_path)}),
    )
    for command, variables in forms:
        ended = run(command, tmp_path, **variables)
        assert (ended.returncode, ended.stdout) == (4, "")
        assert f"{file} hides onelane's package" in ended.stderr
        assert f"myproject.{name}" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("form", ["module", "package"])
def test_a_project_s_own_modules_that_the_service_hides_are_named(form: str, tmp_path: Path) -> None:
    file = write(tmp_path, "tenants", form)
    (tmp_path / "shop.py").write_text("import tenants.billing\n")
    if form == "package":
        (tmp_path / "tenants" / "billing.py").write_text("")
    program = "import sys; from onelane.program import main; sys.argv = ['onelane', 'doctor', '--json']; main()"
    ended = run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"],
        tmp_path,
        ONELANE_PIPELINES="shop",
        ONELANE_DATA_DIR=str(tmp_path / "data"),
    )
    assert ended.returncode == 1
    assert f"{file} is hidden by onelane's package" in ended.stdout
    assert "Rename yours" in ended.stdout


def test_a_pipeline_module_with_a_name_of_ours_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "actors", "module")
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path.append({str(tmp_path)!r})\n"
    program += "from actors.pipeline import load_pipelines; load_pipelines(['actors'])"
    ended = run([sys.executable, "-P", "-c", program], tmp_path)
    assert ended.stderr.splitlines()[-1].endswith(f"is onelane's own and hides {file}: give yours another name")


@pytest.mark.parametrize("place", ["working directory", "--path", "PYTHONPATH"])
@pytest.mark.parametrize("form", ["module", "package"])
def test_the_dramatiq_command_names_what_hides_the_broker(
    form: str, place: str, installed: Path, tmp_path: Path
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    (project / "jobs.py").write_text(USES_THE_BROKER)
    file = write(project if place == "working directory" else elsewhere, "tenants", form)
    command: list[str | Path] = [installed / "python", "-m", "dramatiq", "jobs", "--processes", "1", "--threads", "1"]
    more = {"PYTHONPATH": str(elsewhere)} if place == "PYTHONPATH" else {}
    if place == "--path":
        command += ["--path", str(project), str(elsewhere)]
    ended = run(command, project, **more)
    assert ended.returncode != 0
    assert f"{file} hides onelane's package" in ended.stderr
    assert "onelane_queues" in ended.stderr


def test_a_project_that_does_not_use_ours_receives_nothing(installed: Path, tmp_path: Path) -> None:
    write(tmp_path, "tenants", "package")
    (tmp_path / "tenants" / "billing.py").write_text("")
    program = """
import actors, tenants.billing
try:
    import tenants.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    write(tmp_path, "actors", "module")
    ended = run([installed / "python", "-c", program], tmp_path)
    assert (ended.stdout, ended.stderr) == ("No module named 'tenants.nothing'\n", "")


def test_the_finders_cost_a_start_no_module(installed: Path, tmp_path: Path) -> None:
    program = "import sys; print(*sorted(sys.modules))"
    with_them = run([installed / "python", "-c", program], tmp_path).stdout.split()
    without = run([installed / "python", "-S", "-c", program], tmp_path).stdout.split()
    assert "onelane.collisions" in with_them
    more = set(with_them) - set(without)
    assert more & {"pathlib", "importlib.util", "re", "actors", "tenants", "orchestrator"} == set()
