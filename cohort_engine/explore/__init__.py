"""A cohort in the browser: what is chosen (`view`), the numbers of it (`numbers`), their pictures (`pictures`, `cord`) and the page (`page`)."""
