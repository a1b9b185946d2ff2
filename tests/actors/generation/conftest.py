"""The offline model on a loopback port, once for all tests of this folder, with a fault script for each test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from actors.clients.gemini import TextModel
from orchestrator.offline_model.app import create_app
from orchestrator.offline_model.faults import Faults
from tests.actors.generation.local_model import KEY, OfflineModel


class _Server(uvicorn.Server):
    """A uvicorn server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@pytest.fixture(scope="session")
def running_model() -> Iterator[OfflineModel]:
    faults = Faults()
    app = create_app(faults=faults, control=True)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=2)
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="offline-model")
    thread.start()
    assert server.listens.wait(60)
    yield OfflineModel(f"http://127.0.0.1:{listener.getsockname()[1]}", faults)
    server.should_exit = True
    thread.join(60)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def offline_model(running_model: OfflineModel) -> Iterator[OfflineModel]:
    yield running_model
    running_model.faults.clear()


@pytest.fixture
def text_model(offline_model: OfflineModel) -> Callable[..., TextModel]:
    """Makes a client of the offline model that believes it speaks to Gemini, so that every mapping is Gemini's."""

    def make(*, seconds: float = 30.0, url: str | None = None, offline: bool = False) -> TextModel:
        settings = {
            "api_key": "offline" if offline else KEY,
            "base_url": url or offline_model.url,
            "model": "gemini-3.8-flash",
            "offline": offline,
            "credential": "3f2a",
        }
        return TextModel(settings, lambda: seconds)

    return make
