"""The ledger, under the engine's name. It lives in `io` because closing a store reads it."""

from cohort_engine.io.ledger import LedgerEntry, broken_entries, delete_entries, entry_name, now, read_entry, read_ledger, write_entry

__all__ = ["LedgerEntry", "broken_entries", "delete_entries", "entry_name", "now", "read_entry", "read_ledger", "write_entry"]
