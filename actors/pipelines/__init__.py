"""The pipelines that come with onelane, one a file."""
