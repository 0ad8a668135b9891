"""``python -m cohort_engine.cli``."""

from cohort_engine.cli import main

if __name__ == "__main__":
    main()
