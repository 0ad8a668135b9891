"""Questions to a cohort's tables: group comparisons, discrimination, correlation, agreement. Numbers in, numbers out."""
