"""The evolving dataset on disk: ledger, blobs, shards, revisions and reading order."""
