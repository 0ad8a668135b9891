"""Quality control that is looked at: pages of subjects and of the cohort, ratings, and one patient's page."""
