"""Drafts, and publications of unknown outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from .connection import Api, given, segment
from .types import Draft, Publication


class DraftsApi(Api):
    """`/v1/drafts`."""

    def list(self, *, limit: int | None = 50, account: str | None = None, status: str | None = None) -> Iterator[Draft]:
        """Drafts, newest first."""
        return self._connection.pages("/v1/drafts", {"account": account, "status": status}, limit)

    def get(self, draft_id: str) -> Draft:
        """One draft."""
        return cast("Draft", self._connection.call("GET", f"/v1/drafts/{segment(draft_id)}"))

    def change(
        self,
        draft_id: str,
        version: int,
        *,
        title: str | None = None,
        body: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Draft:
        """Change a draft that is not published yet and is still at `version`; omitted fields stay.

        Raises:
            Conflict: `stale_version` if it has changed, `draft_not_pending` if it is being published.
        """
        changes = given(title=title, body=body, tags=None if tags is None else list(tags))
        path = f"/v1/drafts/{segment(draft_id)}"
        changed = self._connection.call("PATCH", path, json=changes, headers={"If-Match": f'"{version}"'})
        return cast("Draft", changed)


class PublicationsApi(Api):
    """`/v1/admin/publications`: unknown outcomes, settled by a person who has checked the target."""

    def confirm(self, publication_id: str, url: str, external_id: str | None = None) -> Publication:
        """The post exists: the job continues without publishing."""
        path = f"/v1/admin/publications/{segment(publication_id)}:confirm"
        return cast("Publication", self._connection.call("POST", path, json=given(url=url, external_id=external_id)))

    def retry(self, publication_id: str) -> Publication:
        """The post does not exist: the job publishes again, once."""
        path = f"/v1/admin/publications/{segment(publication_id)}:retry"
        return cast("Publication", self._connection.call("POST", path))
