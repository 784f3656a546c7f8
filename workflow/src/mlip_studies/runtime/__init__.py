"""What long jobs share: resumable state with a lease, the wish to stop early, and options read from mappings."""
