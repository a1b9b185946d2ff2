"""The errors with which a step can fail. Each has a stable `code`, which the job shows.

    StepError                  step_failed         the step's own code failed, as with any other exception
    ├── InvalidCall            step_failed         permanent: an invalid call, such as too large a file
    ├── LoginRequired          login_required      permanent: a person must sign in
    ├── ContentBlocked         content_blocked     permanent: the model refuses this content
    ├── OutputTruncated        output_truncated    the model was cut off
    ├── ProviderError          provider_error      the model or another provider failed
    ├── ProviderTimeout        provider_error      … or did not answer in time
    ├── ProviderRefused        provider_error      permanent: … or refused for good (key, model name, bad request)
    ├── PublishFailed          publish_failed      nothing was published, and that is known
    │   └── PublishRefused     publish_failed      permanent: … and only a person can change that
    ├── ReadbackMismatch       readback_mismatch   permanent: a post is there, but not the draft's content
    ├── OutcomeUnknown         outcome_unknown     permanent: it cannot be determined whether the post is there
    ├── CallbackFailed         callback_failed     a webhook's receiver did not accept it
    ├── UnsafeUrl              unsafe_url          permanent: the URL leads to an address that is not allowed
    ├── NotDeclared            not_declared        permanent: the step uses what its `@step` does not declare
    └── OwnershipLost          lost                another attempt owns the step now

A permanent error is not retried. Any other exception of a step is `step_failed` and is retried. `internal` is for
faults of onelane itself. Your own classes derive from `StepError` and may have their own `code`.
"""

from __future__ import annotations

from typing import ClassVar


class StepError(Exception):
    """A step's failure with a stable `code`; `permanent` errors are not retried."""

    code: ClassVar[str] = "step_failed"
    permanent: ClassVar[bool] = False


class InvalidCall(StepError):
    """The step used its context in a way that can never succeed: a file or text too large, data that is not JSON."""

    permanent = True


class LoginRequired(StepError):
    """The session is over and cannot be renewed without a person."""

    code = "login_required"
    permanent = True


class ContentBlocked(StepError):
    """The model refused the prompt or its own answer on grounds of policy."""

    code = "content_blocked"
    permanent = True


class OutputTruncated(StepError):
    """The model stopped before its answer was whole."""

    code = "output_truncated"


class ProviderError(StepError):
    """A provider answered with an error, or with an unusable answer."""

    code = "provider_error"


class ProviderTimeout(ProviderError):
    """A provider did not answer in time."""


class ProviderRefused(ProviderError):
    """A provider refused for a reason that only a person can change: a bad key, an unknown model, a wrong request.

    `scope` names provider and credential, as in `ProviderBusy`, if every request with the credential is refused.
    """

    permanent = True

    def __init__(self, message: str, *, scope: str | None = None) -> None:
        super().__init__(message)
        self.scope = scope


class PublishFailed(StepError):
    """Publishing failed, and it is certain that nothing was published."""

    code = "publish_failed"


class PublishRefused(PublishFailed):
    """Nothing was published, and a person must change something before a retry can succeed."""

    permanent = True


class ReadbackMismatch(StepError):
    """The post was made, but its content differs from the draft's."""

    code = "readback_mismatch"
    permanent = True


class OutcomeUnknown(StepError):
    """A publish was started, and the target cannot say whether it succeeded."""

    code = "outcome_unknown"
    permanent = True


class CallbackFailed(StepError):
    """A webhook's receiver did not answer, or not with success."""

    code = "callback_failed"


class UnsafeUrl(StepError):
    """A URL leads to a host that this installation does not allow."""

    code = "unsafe_url"
    permanent = True


class NotDeclared(StepError):
    """A step used what its `@step` does not declare; the message has the missing argument."""

    code = "not_declared"
    permanent = True


class OwnershipLost(StepError):
    """The worker refused a call: this attempt no longer owns its step."""

    code = "lost"
