"""Maps to tables: sparse operators over blocks of subjects."""
