"""The composition root: everything that a process of onelane needs, made once and passed down. No globals."""

from __future__ import annotations

from collections.abc import Mapping

from actors import Pipeline
from actors.clients.publishers import KnownPublisher, load_publishers
from actors.pipeline import load_pipelines
from tenants.database.transactions import Database
from tenants.queues import TenantBroker
from tenants.secrets.sealing import Sealer, split_keys
from tenants.secrets.sessions import Sessions
from tenants.secrets.webhook_secrets import WebhookSecrets

from .control.dispatch import Dispatcher
from .control.events import EventNotifier
from .control.explain import JobExplainer
from .control.jobs import Jobs
from .control.queue_deletion import QueueDeletion
from .control.schedules import Schedules
from .control.settings_sync import SettingsSync
from .control.violations import Violations
from .control.webhooks import Webhooks
from .settings import Settings, SettingsError
from .step_clients import text_model_scope

#: The prefix of this installation's Redis keys.
NAMESPACE = "onelane"


class Runtime:
    """Settings, database, broker, pipelines and the services over them.

    Raises:
        SettingsError: Redis or the secret key is not set.
        PipelineError, PublisherError: a module of pipelines or publishers cannot be loaded.
    """

    def __init__(self, settings: Settings, *, worker_id: str | None = None) -> None:
        faults = []
        if settings.redis_url is None:
            faults.append("ONELANE_REDIS_URL is not set; give a Redis or Valkey URL, or run `onelane up`")
        if settings.secret_key is None:
            faults.append(
                "ONELANE_SECRET_KEY is not set; make one with `onelane doctor --new-key`, or run `onelane up`"
            )
        if settings.redis_url is None or settings.secret_key is None:
            raise SettingsError(faults)
        self.settings = settings
        self.pipelines: Mapping[str, Pipeline] = load_pipelines(settings.pipelines)
        self.publishers: Mapping[str, KnownPublisher] = load_publishers(settings.publishers)
        self.database = Database(settings.database_url, pool_size=settings.threads + 8)
        # SQL decides about retries, time limits and expiry, so Dramatiq's own middleware for them is left out.
        self.broker = TenantBroker(
            url=settings.redis_url, namespace=NAMESPACE, middleware=[], worker_id=worker_id, other_layouts="ignore"
        )
        # SQL decides who owns a step: a running step continues and commits, also when Redis has lost its lease.
        self.broker.on_lease_lost = lambda _: None
        for lane in self.lanes:
            self.broker.declare_queue(lane)
        self.event_notifier = EventNotifier(settings.redis_url)
        self.database.on_events = self.event_notifier.notify
        self.dispatcher = Dispatcher(self.broker)
        self.settings_sync = SettingsSync(self.database, self.broker, self.lanes)
        self.queue_deletion = QueueDeletion(self.database, self.broker, self.dispatcher)
        self.violations = Violations()
        self.jobs = Jobs(self.database, self.pipelines, self.dispatcher)
        self.schedules = Schedules(self.database, self.jobs, self.dispatcher)
        self.explainer = JobExplainer(self.database, self.broker, self.dispatcher.is_away, self._provider_scope)
        sealer = Sealer(split_keys(settings.secret_key.get_secret_value()))
        self.sessions = Sessions(self.database, sealer)
        self.webhook_secrets = WebhookSecrets(self.database, sealer)
        self.webhooks = Webhooks(self.database, self.jobs, self.webhook_secrets)

    @property
    def lanes(self) -> list[str]:
        """Every lane that a loaded pipeline uses, in alphabetical order."""
        return sorted({step.lane for pipeline in self.pipelines.values() for step in pipeline.steps})

    @property
    def session_lanes(self) -> list[str]:
        """The lanes with a step that uses the account's session, in alphabetical order."""
        return sorted(
            {step.lane for pipeline in self.pipelines.values() for step in pipeline.steps if step.uses.session}
        )

    def _provider_scope(self, pipeline: str, step: str) -> str | None:
        """Provider and credential that a step uses; None where it uses none, or is not loaded here."""
        found = self.pipelines.get(pipeline)
        uses = next((each.uses for each in found.steps if each.name == step), None) if found is not None else None
        return text_model_scope(self.settings) if uses is not None and "gemini" in uses.clients else None

    def close(self) -> None:
        """Close every connection."""
        self.event_notifier.close()
        self.broker.close()
        self.database.close()
