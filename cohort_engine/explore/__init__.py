"""A cohort in the browser: what is chosen (`view`), the numbers of it (`numbers`), their pictures (`pictures`, `cord`), one person
(`person`, `viewer`) and the page (`page`).
"""
