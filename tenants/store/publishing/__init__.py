"""Drafts, artifacts, and the publication ledger."""
