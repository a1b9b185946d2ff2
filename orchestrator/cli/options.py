"""Arguments and options with shell completion, for all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client.types import AccountStatus, DraftStatus, JobStatus
from . import completion

AccountArgument = Annotated[str, typer.Argument(autocompletion=completion.accounts)]
JobArgument = Annotated[str, typer.Argument(autocompletion=completion.jobs)]
DraftArgument = Annotated[str, typer.Argument(autocompletion=completion.drafts)]
ScheduleArgument = Annotated[str, typer.Argument(autocompletion=completion.schedules)]
LetterArgument = Annotated[str, typer.Argument(autocompletion=completion.dead_letters)]
LaneArgument = Annotated[str, typer.Argument(autocompletion=completion.lanes)]
PipelineArgument = Annotated[str, typer.Argument(autocompletion=completion.pipelines)]

Account = Annotated[str | None, typer.Option(help="Only of this account.", autocompletion=completion.accounts)]
Lane = Annotated[str | None, typer.Option(help="Only of this lane.", autocompletion=completion.lanes)]
Pipeline = Annotated[str | None, typer.Option(help="Only of this pipeline.", autocompletion=completion.pipelines)]
WithJobStatus = Annotated[JobStatus | None, typer.Option(help="Only with this status.")]
WithDraftStatus = Annotated[DraftStatus | None, typer.Option(help="Only with this status.")]
WithAccountStatus = Annotated[AccountStatus | None, typer.Option(help="Only with this status.")]
