"""Jobs: created, read, listed, approved, ended, explained, scheduled, and reported to webhooks."""
