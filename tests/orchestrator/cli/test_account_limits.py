"""The client and the command line can set every limit of an account that the API accepts."""

from __future__ import annotations

import inspect

from orchestrator.cli.account_settings import set_limits
from orchestrator.client.accounts import AccountsApi
from orchestrator.web.api.models.accounts import LimitsRequest
from tenants.account import LaneLimits

FIELDS = set(LimitsRequest.model_fields)


def test_the_client_sets_every_limit() -> None:
    assert set(inspect.signature(AccountsApi.put_limits).parameters) - {"self", "account"} == FIELDS


def test_the_command_line_sets_every_limit() -> None:
    options = set(inspect.signature(set_limits).parameters)
    assert FIELDS - {"lanes"} | set(LaneLimits.__dataclass_fields__) <= options
