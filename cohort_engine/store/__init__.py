"""The cohort's own files: layout, writer, ledger, maintenance. Only this folder writes a store."""
