"""From a cohort to tables, figures and a page: what `cohort-engine analyse` writes."""
