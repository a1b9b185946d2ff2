"""What a process has loaded when it begins to serve is out of the garbage collector's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tenants.secrets.sealing import new_key
from tests.support.servers import free_port

SERVE = """
import gc, json, sys, uvicorn
from orchestrator.cli import service
from orchestrator.local.schema import bring_up_to_date
from orchestrator.settings import Settings

def look(app, **_):
    kept = gc.get_freeze_count()
    print(json.dumps({"kept": kept, "app": any(each is app for each in gc.get_objects())}))

uvicorn.run = look
settings = Settings.load()
bring_up_to_date(settings.database_url)
service.run_serve(settings)
"""


def test_a_control_plane_serves_with_a_frozen_heap(tmp_path: Path) -> None:
    settings = {
        "ONELANE_DATABASE_URL": f"sqlite:///{tmp_path}/onelane.db",
        "ONELANE_REDIS_URL": f"redis://127.0.0.1:{free_port()}",  # nobody is there, and nothing needs it here
        "ONELANE_DATA_DIR": str(tmp_path),
        "ONELANE_SECRET_KEY": new_key(),
        "ONELANE_ADMIN_KEY": "the-admin-key-of-this-test-0001",
    }
    done = subprocess.run(
        [sys.executable, "-c", SERVE], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["kept"] > 10_000
    assert not seen["app"]
