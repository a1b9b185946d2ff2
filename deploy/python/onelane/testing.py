"""For tests of your own steps and publishers: see `docs/pipelines.md` and `docs/publishers.md`.

from onelane.testing import MemoryPort, run_step
from onelane.testing import ContractSite, PublisherContract  # needs pytest
"""

from typing import TYPE_CHECKING, Any

from actors.testing import MemoryPort, make_context, run_step

if TYPE_CHECKING:
    from actors.publisher_contract import ContractSite as ContractSite
    from actors.publisher_contract import PublisherContract as PublisherContract

__all__ = ["MemoryPort", "make_context", "run_step"]


def __getattr__(name: str) -> Any:
    """Import the publishers' contract at its first use, because it needs pytest."""
    if name not in ("ContractSite", "PublisherContract"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from actors import publisher_contract

    return getattr(publisher_contract, name)
